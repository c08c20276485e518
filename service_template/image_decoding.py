"""An image file becomes the numbers a classifier was trained on: RGB, resized, float32 from 0 to 1.

The steps are those of the walk-through's service, to the bit: Pillow's default resampling, division in double
precision, then float32.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
from http_errors import RequestError

# Only formats Pillow decodes by itself: its EPS plugin, for one, would start Ghostscript on what a stranger sent.
FORMATS = ("BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class ImageShape:
    """What a model wants of one image; a side that is None may have any length."""

    height: int | None
    width: int | None
    channels: int

    @property
    def mode(self) -> str:
        return _MODES[self.channels]


def parse_image_shape(shape: tuple[int | None, ...]) -> ImageShape:
    """The image shape of a model's input (batch, height, width, channels); ValueError when it takes no images."""
    if len(shape) != 4 or shape[3] not in _MODES:
        raise ValueError(f"the model's input {shape} is no batch of images (batch, height, width, 1, 3 or 4 channels)")
    return ImageShape(height=shape[1], width=shape[2], channels=int(shape[3]))


def decode_image(image: bytes, shape: ImageShape, *, max_pixels: int) -> np.ndarray:
    """A batch of one image, (1, height, width, channels); RequestError 400 or 413 when the bytes are not to be used."""
    pixels = np.asarray(_resized(image, shape, max_pixels))
    batch: np.ndarray = np.divide(pixels, 255.0).astype("float32")[np.newaxis]
    return batch if batch.ndim == 4 else batch[..., np.newaxis]  # grey images have no axis for channels


def make_black_image() -> bytes:
    """A PNG file of 64 x 64 black pixels, to try a model with."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (64, 64)).save(file, "PNG")
    return file.getvalue()


def _resized(image: bytes, shape: ImageShape, max_pixels: int) -> PIL.Image.Image:
    too_large = RequestError(413, f"The image has more than {max_pixels / 10**6:g} megapixels.")
    try:
        with PIL.Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            # Only the header has been read so far: a small file can hold an enormous image.
            if opened.width * opened.height > max_pixels:
                raise too_large
            size = (shape.width or opened.width, shape.height or opened.height)
            resized: PIL.Image.Image = opened.convert(shape.mode).resize(size)
            return resized
    except RequestError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise too_large from error
    except Exception as error:  # decoders raise whatever they stumble over: OSError, SyntaxError, struct.error, …
        raise RequestError(400, "The file sent is not an image that can be read.") from error
