"""Decodes an image file to the input a classifier was trained on: upright, in its colors and size, float32.

By default the steps match the walk-through's service bit for bit: RGB, Pillow's default resampling, division by 255 in
double precision, then float32. In addition, the camera's EXIF orientation is applied.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin

from fargate_service.errors import RequestError
from fargate_service.memory.costs import image_cost
from fargate_service.settings import DEFAULT_LIMITS, ImageLimits

# What cameras, browsers and screenshots produce, and only formats whose header bounds their memory: TIFF and JPEG 2000
# have tiles of any size, ICO contains other images, EPS would run Ghostscript. The numbers are bytes for each pixel
# while it is decoded, turned upright and converted: 4 for each copy in Pillow, and WebP's canvases. A test measures
# them, with what `decoding_cost` adds.
FORMATS = {"BMP": 10, "GIF": 10, "JPEG": 10, "PNG": 10, "WEBP": 18}
# PNG can contain compressed texts, which Pillow reads together with the header.
PIL.PngImagePlugin.MAX_TEXT_MEMORY = PIL.PngImagePlugin.MAX_TEXT_CHUNK
HEADER_BYTES = 2 * PIL.PngImagePlugin.MAX_TEXT_CHUNK
# `open_image` has limits of its own, which can be set.
PIL.Image.MAX_IMAGE_PIXELS = None
_UNREADABLE = "The file is not a readable JPEG, PNG, WebP, GIF or BMP image; environment.IMAGE_FORMATS adds formats."
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_RESAMPLING = {
    "nearest": PIL.Image.Resampling.NEAREST,
    "bilinear": PIL.Image.Resampling.BILINEAR,
    "bicubic": PIL.Image.Resampling.BICUBIC,  # Pillow's default
    "lanczos": PIL.Image.Resampling.LANCZOS,
}
_SCALING: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "0..1": lambda pixels: np.divide(pixels, 255.0),
    "-1..1": lambda pixels: np.divide(pixels, 127.5) - 1.0,
    "0..255": lambda pixels: pixels,
}


@dataclass(frozen=True)
class ImageShape:
    """The image shape that a model requires; a side that is None can have any length."""

    height: int | None
    width: int | None
    channels: int

    @property
    def mode(self) -> str:
        return _MODES[self.channels]


@dataclass(frozen=True)
class DecodingOptions:
    """How the images were prepared that the model was trained on."""

    size: tuple[int, int] | None = None  # height, width; None: the model's size, or the image's if the model takes any
    scaling: str = "0..1"
    resampling: str = "bicubic"
    color: str = "rgb"  # or bgr, OpenCV's order; grayscale models get grayscale


AS_TRAINED_BY_DEFAULT = DecodingOptions()


def parse_decoding_options(options: Mapping[str, Any]) -> DecodingOptions:
    """Returns the options in service.json; they were checked when the image was built."""
    known = {name: options[name] for name in ("scaling", "resampling", "color") if name in options}
    size = options.get("size")
    return DecodingOptions(size=(int(size[0]), int(size[1])) if size else None, **known)


def parse_image_shape(shape: tuple[int | None, ...]) -> ImageShape:
    """Returns the image shape of an input (batch, height, width, channels); ValueError if it does not take images."""
    if len(shape) != 4 or shape[3] not in _MODES:
        raise ValueError(
            f"the model's input {shape} is not a batch of images (batch, height, width, 1, 3 or 4 channels)"
        )
    return ImageShape(height=shape[1], width=shape[2], channels=int(shape[3]))


def with_size(shape: ImageShape, size: tuple[int, int] | None) -> ImageShape:
    """Returns `shape` with its open sides set to `size`; raises ValueError if the model requires another size."""
    if size is None:
        return shape
    if any(side not in (None, wanted) for side, wanted in zip((shape.height, shape.width), size, strict=True)):
        raise ValueError(f"the model requires images of {shape.height} x {shape.width}, not {size[0]} x {size[1]}")
    return ImageShape(size[0], size[1], shape.channels)


def decode_image(
    image: bytes,
    shape: ImageShape,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    options: DecodingOptions = AS_TRAINED_BY_DEFAULT,
) -> np.ndarray:
    """Returns a batch of one image, (1, height, width, channels); RequestError 400 or 413 if the bytes are unusable."""
    return decode_opened(open_image(image, limits), shape, options)


def open_image(image: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> PIL.Image.Image:
    """Returns the image with only its header read; RequestError 400 or 413 if it is not readable or too large."""
    with _bad_requests():
        opened = PIL.Image.open(io.BytesIO(image), formats=(*FORMATS, *limits.further_formats))
    # A small file can hold an enormous image.
    if opened.width * opened.height > limits.max_pixels:
        raise RequestError(
            413, f"The image has more than {limits.max_pixels / 10**6:g} megapixels (MAX_IMAGE_MEGAPIXELS)."
        )
    if max(opened.size) > limits.max_side:
        raise RequestError(413, f"The image has a side of more than {limits.max_side} pixels (MAX_IMAGE_SIDE).")
    return opened


def check_formats(names: tuple[str, ...]) -> None:
    """Raises ValueError for a format that Pillow does not know."""
    PIL.Image.init()
    if unknown := sorted(set(names) - set(PIL.Image.OPEN)):
        raise ValueError(
            f"IMAGE_FORMATS: Pillow has no format {unknown[0]}; it has {', '.join(sorted(PIL.Image.OPEN))}"
        )


def decoding_cost(opened: PIL.Image.Image, shape: ImageShape) -> int:
    """Returns the bytes that `decode_opened` needs."""
    longer = max(opened.size)  # the image may be turned upright
    out = (shape.height or longer, shape.width or longer)
    if shape.height is None and shape.width is None:
        out = (opened.height, opened.width)
    # JPEGs of stereo cameras are opened as MPO.
    per_pixel = FORMATS.get(opened.format or "", max(FORMATS.values()))
    if opened.format == "JPEG" and _has_several_scans(opened):
        per_pixel += 4  # libjpeg keeps the coefficients of all pixels until the last scan
    if shape.channels == 4:
        per_pixel += 4  # a copy that is multiplied by the transparency
    return image_cost(*opened.size, bytes_per_pixel=per_pixel, out=out, channels=shape.channels)


def _has_several_scans(opened: PIL.Image.Image) -> bool:
    """Returns whether a JPEG is progressive, or its first scan has not all components (ITU T.81, B.2.3); or maybe."""
    # Pillow has read the header of the first scan, which the pixels follow.
    file, components = getattr(opened, "fp", None), getattr(opened, "layers", 0)
    if "progressive" in opened.info or not isinstance(file, io.BytesIO):
        return True
    start = file.tell() - (6 + 2 * components) - 2
    return start < 0 or bytes(file.getbuffer()[start : start + 2]) != b"\xff\xda"


def decode_opened(opened: PIL.Image.Image, shape: ImageShape, options: DecodingOptions) -> np.ndarray:
    """Returns the opened image as `decode_image` does, and closes it."""
    with _bad_requests():
        pixels = np.asarray(_resized(opened, shape, _RESAMPLING[options.resampling]))
    if options.color == "bgr" and shape.channels == 3:
        pixels = pixels[..., ::-1]
    batch: np.ndarray = _SCALING[options.scaling](pixels).astype("float32")[np.newaxis]
    return batch if batch.ndim == 4 else batch[..., np.newaxis]  # grayscale images have no channel axis


def make_black_image() -> bytes:
    """Returns a PNG file of 64 x 64 black pixels, to test a model with."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (64, 64)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def _bad_requests() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # decoders raise many types: OSError, SyntaxError, struct.error, …
        raise RequestError(400, _UNREADABLE) from error


def _resized(opened: PIL.Image.Image, shape: ImageShape, resampling: PIL.Image.Resampling) -> PIL.Image.Image:
    with opened:
        # Upright first: a side that the model leaves open is that of the image as people see it.
        PIL.ImageOps.exif_transpose(opened, in_place=True)
        upright = _eight_bits(opened)
        size = (shape.width or upright.width, shape.height or upright.height)
        colored = upright if upright.mode == shape.mode else upright.convert(shape.mode)
        return colored.resize(size, resampling)


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Converts 16-bit grayscale to 8-bit: Pillow's conversion would clip every value above 255."""
    if not image.mode.startswith("I;16"):
        return image
    return PIL.Image.fromarray((np.asarray(image).astype("uint16") >> 8).astype("uint8"))
