"""Image files that are made to exhaust a service or to make it fail, in each format that image classifiers accept."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

_MUTATIONS = 20
_CHANGED_BYTES = 4

Bodies = dict[str, bytes]
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "others")


def chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(
    *chunks: bytes, width: int = 2, height: int = 2, depth: int = 8, color: int = 2, interlace: int = 0
) -> bytes:
    """Returns a PNG file of these chunks after the header."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + b"".join((chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")))


def black_png(width: int, height: int, channels: int = 3) -> bytes:
    """Returns a PNG file of black pixels: a thousandth of its size in memory."""
    packer = zlib.compressobj(1)
    row = bytes(1 + width * channels)
    at_once = max(1, (1 << 20) // len(row))
    packed = [packer.compress(row * min(at_once, height - at)) for at in range(0, height, at_once)]
    data = chunk(b"IDAT", b"".join((*packed, packer.flush())))
    return png_of(data, width=width, height=height, color={3: 2, 4: 6}[channels])


def of_format(image_format: str, size: tuple[int, int] = (50, 50), mode: str = "RGB", **options: Any) -> bytes:
    """Returns a file of one color."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, image_format, **options)
    return file.getvalue()


def noisy(image_format: str) -> bytes:
    """Returns a small file of random pixels."""
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype="uint8")
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def hostile_images(image_format: str) -> Bodies:
    """Returns files that are small for what they become, contradict themselves, or have some bytes changed or missing.

    `image_format` is one of FORMATS.
    """
    make = {"PNG": _pngs, "JPEG": _jpegs, "WEBP": _webps, "GIF": _gifs, "BMP": _bmps, "others": _others}[image_format]
    changed = {} if image_format == "others" else _mutations(noisy(image_format))
    return make() | changed


def _pngs() -> Bodies:
    pixel = chunk(b"IDAT", zlib.compress(bytes(2 * (1 + 2 * 3))))
    zeros = zlib.compress(bytes(50_000_000), 9)
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 900_000, zip=True)
    return {
        "1 x 20,000": black_png(1, 20_000),
        "20,000 x 1": black_png(20_000, 1),
        "1 x 49,000,000": black_png(1, 49_000_000),
        "49 megapixels": black_png(7000, 7000),
        "36 megapixels with transparency": black_png(6000, 6000, 4),
        "a header of 2**31 pixels": png_of(pixel, width=2**31 - 1, height=2**31 - 1),
        "a header of 50 megapixels without them": png_of(pixel, width=7000, height=7000),
        "no width": png_of(pixel, width=0),
        "more data than pixels": png_of(chunk(b"IDAT", zeros)),
        "no data": png_of(),
        "data that is not compressed": png_of(chunk(b"IDAT", b"x" * 1000)),
        "10,000 pieces of data": png_of(*[chunk(b"IDAT", b"")] * 10_000, pixel),
        "a text of 50 MB": png_of(chunk(b"zTXt", b"a\0\0" + zeros), pixel),
        "100 texts of 900 kB": png_of(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000)))] * 100, pixel),
        "an international text of 50 MB": png_of(chunk(b"iTXt", b"a\0\1\0\0\0" + zeros), pixel),
        "a color profile of 50 MB": png_of(chunk(b"iCCP", b"a\0\0" + zeros), pixel),
        "a permitted text": of_format("PNG", pnginfo=text),
        "no palette": png_of(pixel, color=3),
        "an unknown color type": png_of(pixel, color=5),
        "an unknown depth": png_of(pixel, depth=3),
        "16 bits": of_format("PNG", mode="I;16"),
        "interlaced, without data": png_of(pixel, width=6000, height=6000, interlace=1),
        "a chunk of 2 GB": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR",
        "broken EXIF": png_of(chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"), pixel),
        "1,000,000 frames": png_of(chunk(b"acTL", struct.pack(">II", 10**6, 0)), pixel),
    }


def _jpegs() -> Bodies:
    small = noisy("JPEG")
    start = small.index(b"\xff\xc0")  # SOF0: length, precision, height, width
    sized = lambda width, height: small[: start + 5] + struct.pack(">HH", height, width) + small[start + 9 :]  # noqa: E731
    comment = b"\xff\xfe" + struct.pack(">H", 65_535) + bytes(65_533)
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    return {
        "12 megapixels": of_format("JPEG", (4000, 3000)),
        "12 megapixels, progressive": of_format("JPEG", (4000, 3000), progressive=True),
        "32 megapixels": of_format("JPEG", (8000, 4000)),
        "32 megapixels, progressive": of_format("JPEG", (8000, 4000), progressive=True),
        "65,535 x 65,535 without data": sized(65_535, 65_535),
        "16,000 x 3,000 without data": sized(16_000, 3000),
        "no width": sized(0, 10),
        "no height": sized(10, 0),
        "10 MB of comments": small[:2] + comment * 150 + small[2:],
        "ends early": small[: len(small) // 2],
        "ends in its header": small[:10],
        "two pictures": small * 2,
        "no end": small[:-2],
        "data after its end": small + bytes(1_000_000),
        "CMYK": of_format("JPEG", mode="CMYK"),
        "grayscale": of_format("JPEG", mode="L"),
        "stereo cameras": of_format("MPO"),
        "on its side": of_format("JPEG", exif=exif),
        "broken EXIF": of_format("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 1000),
        "an EXIF directory that contains itself": of_format(
            "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08"
        ),
        "a color profile of 60 kB": of_format("JPEG", icc_profile=bytes(60_000)),
        "a table that is missing": small.replace(b"\xff\xdb", b"\xff\xfe"),
        "arithmetic coding": small.replace(b"\xff\xc0", b"\xff\xc9"),
    }


def _webps() -> Bodies:
    small = noisy("WEBP")
    frames = [Image.new("RGB", (200, 200), (number, 0, 0)) for number in range(200)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    canvas = (16_383).to_bytes(3, "little")
    extended = chunk_of_riff(b"VP8X", b"\x02\0\0\0" + canvas * 2)
    return {
        "32 megapixels": of_format("WEBP", (8000, 4000), method=0),
        "32 megapixels without loss": of_format("WEBP", (8000, 4000), method=0, lossless=True),
        "200 frames": file.getvalue(),
        "a canvas of 16,384 x 16,384": riff(extended, small[12:]),
        "a canvas without a picture": riff(extended),
        "a length of 4 GB": small[:4] + b"\xff\xff\xff\xfe" + small[8:],
        "a chunk of 4 GB": small[:16] + b"\xff\xff\xff\xff" + small[20:],
        "no data": small[:30],
        "ends early": small[: len(small) // 2],
        "RIFF only": b"RIFF\0\0\0\0WEBP",
    }


def chunk_of_riff(kind: bytes, content: bytes) -> bytes:
    """Returns a chunk of a WebP file."""
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def riff(*chunks: bytes) -> bytes:
    """Returns a WebP file."""
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _gifs() -> Bodies:
    small = noisy("GIF")
    frames = [Image.new("P", (500, 500), number) for number in range(100)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return {
        "32 megapixels": of_format("GIF", (8000, 4000)),
        "100 frames": file.getvalue(),
        "a screen of 65,535 x 65,535": small[:6] + b"\xff\xff\xff\xff" + small[10:],
        "10,000 comments": small[:13] + b"\x21\xfe\xff" * 10_000 + small[13:],
        "no data": small[:13],
        "ends early": small[: len(small) // 2],
    }


def _bmps() -> Bodies:
    small = noisy("BMP")
    sized = lambda width, height: small[:18] + struct.pack("<ii", width, height) + small[26:]  # noqa: E731
    return {
        "whose pixels are missing": of_format("BMP", (3000, 1000))[:1000],
        "2**31 pixels": sized(2**31 - 1, 2**31 - 1),
        "a negative width": sized(-60, 40),
        "a negative height": sized(60, -40),
        "no width": sized(0, 40),
        "compressed": small[:30] + b"\x01\0\0\0" + small[34:],
        "1,000 bits": small[:28] + b"\xe8\x03" + small[30:],
    }


def _others() -> Bodies:
    return {
        "TIFF": of_format("TIFF"),
        "ICO": of_format("ICO"),
        "PPM with a long number": b"P3 " + b"9" * 1_000_000 + b" 1 255 ",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='99999' height='99999'/>",
        "a PNG in a ZIP": b"PK\x03\x04" + black_png(1, 1),
        "a byte": b"x",
        "zeros": bytes(5_000_000),
        "a text": b"no image" * 1000,
    }


def _mutations(body: bytes) -> Bodies:
    """Returns `body` with other bytes in a few places, or without its end; the same each time."""
    chosen = random.Random(1)
    changed: Bodies = {}
    for number in range(_MUTATIONS):
        content = bytearray(body)
        for _ in range(_CHANGED_BYTES):
            content[chosen.randrange(len(content))] = chosen.randrange(256)
        end = len(content) if number % 2 else chosen.randrange(1, len(content))
        changed[f"change {number}"] = bytes(content[:end])
    return changed
