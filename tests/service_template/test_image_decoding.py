"""Image files are decoded to the input a classifier was trained on."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fargate_service.errors import RequestError
from fargate_service.memory.measured import peak_bytes, return_freed_memory
from fargate_service.models.image_decoding import (
    DecodingOptions,
    ImageShape,
    check_formats,
    decode_image,
    decode_opened,
    decoding_cost,
    make_black_image,
    open_image,
    parse_decoding_options,
    parse_image_shape,
)
from fargate_service.settings import ImageLimits

SHAPE = ImageShape(height=100, width=100, channels=3)
LIMIT = 10**6


def noise(mode: str = "RGB", size: tuple[int, int] = (150, 70), image_format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype="uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, image_format)
    return file.getvalue()


def test_an_image_is_prepared_bit_for_bit_as_in_the_walk_through() -> None:
    image = noise()
    expected = np.asarray(Image.open(io.BytesIO(image)).convert(mode="RGB").resize((100, 100)))
    expected = np.asarray([np.divide(expected, 255.0)]).astype("float32")

    decoded = decode_image(image, SHAPE, limits=ImageLimits(LIMIT))

    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize("image_format", ["BMP", "GIF", "JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_common_formats_are_read(image_format: str, mode: str) -> None:
    assert decode_image(noise(mode, image_format=image_format), SHAPE, limits=ImageLimits(LIMIT)).shape == (
        1,
        100,
        100,
        3,
    )


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "I;16"])
def test_every_color_mode_is_converted_to_the_models_mode(mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (30, 20)).save(file, "PNG")

    assert decode_image(file.getvalue(), SHAPE, limits=ImageLimits(LIMIT)).shape == (1, 100, 100, 3)


def test_a_picture_taken_sideways_is_turned_upright() -> None:
    upright = Image.new("RGB", (4, 2), "black")
    upright.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # display it rotated by 90 degrees
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)

    decoded = decode_image(file.getvalue(), ImageShape(None, None, 3), limits=ImageLimits(LIMIT))

    assert decoded.shape == (1, 2, 4, 3)
    assert decoded[0, 0, 0].tolist() == [1, 1, 1]
    assert decoded.sum() == 3


def test_16_bit_grayscale_keeps_its_shades() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 0x4000, 0xFFFF]], dtype="uint16")).save(file, "PNG")

    decoded = decode_image(file.getvalue(), ImageShape(None, None, 1), limits=ImageLimits(LIMIT))

    assert np.round(decoded.ravel() * 255).tolist() == [0, 0x40, 0xFF]


@pytest.mark.parametrize(("scaling", "white"), [("0..1", 1.0), ("-1..1", 1.0), ("0..255", 255.0)])
@pytest.mark.parametrize(("shade", "black"), [("black", {"-1..1": -1.0}), ("white", None)])
def test_scaling_is_what_the_model_was_trained_with(scaling: str, white: float, shade: str, black: Any) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3, 3), shade).save(file, "PNG")
    expected = white if black is None else black.get(scaling, 0.0)

    decoded = decode_image(file.getvalue(), SHAPE, limits=ImageLimits(LIMIT), options=DecodingOptions(scaling=scaling))

    assert np.unique(decoded).tolist() == [expected]


def test_resampling_and_color_order_are_options() -> None:
    image = noise()
    nearest = Image.open(io.BytesIO(image)).resize((100, 100), Image.Resampling.NEAREST)
    options = parse_decoding_options({"resampling": "nearest", "color": "bgr", "size": [100, 100], "other": 1})

    decoded = decode_image(image, SHAPE, limits=ImageLimits(LIMIT), options=options)

    assert np.array_equal(np.round(decoded[0] * 255), np.asarray(nearest)[..., ::-1])


def test_grayscale_models_get_one_channel() -> None:
    assert decode_image(noise(), ImageShape(28, 28, 1), limits=ImageLimits(LIMIT)).shape == (1, 28, 28, 1)


def test_models_that_take_any_size_get_the_image_in_its_original_size() -> None:
    assert decode_image(noise(), ImageShape(None, None, 3), limits=ImageLimits(LIMIT)).shape == (1, 70, 150, 3)


@pytest.mark.parametrize("image", [b"", b"hello", noise()[:200], make_black_image()[:60], b"\x89PNG\r\n\x1a\n" * 9])
def test_a_file_that_is_not_an_image_is_rejected(image: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        decode_image(image, SHAPE, limits=ImageLimits(LIMIT))

    assert refused.value.status == 400


def test_postscript_is_not_run() -> None:
    with pytest.raises(RequestError) as refused:
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", SHAPE, limits=ImageLimits(LIMIT))

    assert refused.value.status == 400


@pytest.mark.parametrize("size", [(20_000, 20_000), (2_000, 501)])
def test_a_small_file_with_an_enormous_image_is_rejected_undecoded(size: tuple[int, int]) -> None:
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))

    with pytest.raises(RequestError) as refused:
        decode_image(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT", SHAPE, limits=ImageLimits(LIMIT))

    assert refused.value.status == 413


def test_the_image_shape_is_taken_from_the_models_input() -> None:
    assert parse_image_shape((None, 100, 120, 3)) == ImageShape(height=100, width=120, channels=3)


@pytest.mark.parametrize("shape", [(None, 10), (None, 3, 100, 100), (None, 100, 100, None), (None, 5, 5, 5, 3)])
def test_other_inputs_are_not_images(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(ValueError, match="not a batch of images"):
        parse_image_shape(shape)


def photo(image_format: str, mode: str, size: tuple[int, int] = (3000, 2000), **options: Any) -> bytes:
    """Returns an image file that a camera wrote sideways."""
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient = Image.linear_gradient("L").resize(size)
    picture = Image.merge("RGB", (gradient, gradient.rotate(180), gradient)) if mode != "I;16" else gradient
    file = io.BytesIO()
    picture = Image.fromarray(np.asarray(gradient).astype("uint16")) if mode == "I;16" else picture.convert(mode)
    picture.save(file, image_format, exif=exif.tobytes(), **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("image_format", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "CMYK", {"progressive": True, "subsampling": 0}),
        ("JPEG", "L", {"progressive": True}),
        ("PNG", "RGB", {"compress_level": 1}),
        ("PNG", "RGBA", {"compress_level": 1}),
        ("PNG", "P", {"compress_level": 1}),
        ("PNG", "I;16", {"compress_level": 1}),
        ("WEBP", "RGB", {"method": 0}),
        ("WEBP", "RGBA", {"method": 0, "lossless": True, "quality": 0}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
    ],
)
@pytest.mark.parametrize("shape", [SHAPE, ImageShape(None, None, 3), ImageShape(2000, 64, 3), ImageShape(64, 64, 4)])
def test_decoding_costs_at_most_what_is_estimated(
    image_format: str, mode: str, options: dict[str, Any], shape: ImageShape
) -> None:
    return_freed_memory()
    image = photo(image_format, mode, **options)
    opened = open_image(image, limits=ImageLimits(10**7))
    cost = decoding_cost(opened, shape)

    risen = peak_bytes(lambda: decode_opened(opened, shape, DecodingOptions(scaling="-1..1")))

    assert risen is not None
    assert risen < cost + 4 * 10**6


def test_a_jpeg_whose_components_come_in_separate_scans_costs_as_much_as_a_progressive_one() -> None:
    image = photo("JPEG", "RGB", size=(300, 200))
    scan = image.rindex(b"\xff\xda")
    separate = image[:scan] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + image[scan + 14 :]
    progressive = photo("JPEG", "RGB", size=(300, 200), progressive=True)

    one, each, refined = (decoding_cost(open_image(file), SHAPE) for file in (image, separate, progressive))

    assert one < each == refined


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    """Returns the beginning of a PNG file, up to its size."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


@pytest.mark.parametrize(
    ("width", "height"), [(1, 49_000_000), (49_000_000, 1), (16_385, 1), (7100, 7100), (40_000, 40_000)]
)
def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(RequestError, match=r"\(MAX_IMAGE_(MEGAPIXELS|SIDE)\)") as refused:
        open_image(png_header(width, height) + chunk(b"IDAT", b""), limits=ImageLimits(50 * 10**6))

    assert refused.value.status == 413


@pytest.mark.parametrize("image_format", ["TIFF", "ICO", "PPM", "TGA", "JPEG2000", "PCX", "EPS"])
def test_formats_that_do_not_bound_their_memory_are_refused(image_format: str) -> None:
    with pytest.raises(RequestError, match=r"JPEG, PNG, WebP, GIF or BMP.* environment\.IMAGE_FORMATS") as refused:
        decode_image(noise(image_format=image_format), SHAPE, limits=ImageLimits(LIMIT))

    assert refused.value.status == 400


def test_compressed_texts_in_a_png_are_bounded() -> None:
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000), 9))

    with pytest.raises(RequestError) as refused:
        open_image(png_header(1, 1) + text * 60 + chunk(b"IDAT", b""), limits=ImageLimits(LIMIT))

    assert refused.value.status == 400


def test_other_formats_can_be_permitted() -> None:
    image = noise(image_format="TIFF")

    assert decode_image(image, SHAPE, limits=ImageLimits(LIMIT, further_formats=("TIFF",))).shape == (1, 100, 100, 3)


def test_a_permitted_format_that_pillow_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match=r"IMAGE_FORMATS: Pillow has no format TIF; it has .*TIFF"):
        check_formats(("TIFF", "TIF"))
