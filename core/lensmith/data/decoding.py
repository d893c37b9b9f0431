"""Encoded images from streams: the formats that people use, told by their content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from lensmith.data.pixels import FETCH, check_content, check_size, foreign_errors, orientation, refusal, to_rgb
from lensmith.interfaces.shapes import Size
from lensmith.spec.pictures import PicturePolicy

# Pillow's classes are used directly: `Image.open` applies a process-wide pixel limit that warns before ours, and
# would try every format it knows. A camera's MPO is a JPEG whose first picture is the photograph.
_SIGNATURES: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"GIF87a": GifImageFile,
    b"GIF89a": GifImageFile,
    b"BM": BmpImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,
    b"MM\0+": TiffImageFile,
}
_FORMATS = "BMP, GIF, JPEG, PNG, PPM, TIFF, WebP"
_PPM = re.compile(rb"P[1-7Ff][\s#]")
_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_RAW_PPM = re.compile(
    rb"P4" + (_SPACE + rb"\d+") * 2 + rb"\s|P[56]" + (_SPACE + rb"\d+") * 2 + _SPACE + rb"(255|65535)\s"
)
_PPM_HEADER = 1024
_RUNS = 1 << 20
"""Bytes of a BMP of runs, which Pillow decodes in Python."""

_LOOKALIKES = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<head": "an HTML page",
    b"<svg": "an SVG drawing",
    b"<?xml": "XML text",
    b"version https://git-lfs": "a Git LFS pointer",
    b"%pdf": "a PDF",
    b"%!ps": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"{": "JSON text",
    b"[": "JSON text",
    b"pk\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip file",
    b"8bps": "a Photoshop file",
    b"\0\0\x01\0": "an icon file",
    b"\0\0\0\x0cjp  ": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cjxl ": "a JPEG XL picture",
}
_BRANDS = {b"avif": "an AVIF picture", b"heic": "a HEIC picture", b"mif1": "a HEIF picture"}


def decode_stream(file: BinaryIO, name: Path | str, policy: PicturePolicy) -> Image.Image:
    """The RGB pixels of an encoded image, whatever its name says it is.

    Args:
        file: read from its beginning; it stays open.
        name: what messages call it.
        policy: see `to_rgb`.

    Raises:
        PictureError: damaged, no image that can be read, or outside the policy.
    """
    with _header(file, name, policy) as image:
        return to_rgb(image, name, policy)


def stream_size(file: BinaryIO, name: Path | str, policy: PicturePolicy) -> Size:
    """(height, width) that `decode_stream` would give, from the header alone.

    Raises:
        PictureError: as `decode_stream`, but for damage that only decoding shows.
    """
    with _header(file, name, policy) as image:
        width, height = image.size
        if policy.exif and isinstance(image, PngImageFile) and _told_behind_pixels(file):
            image.load()
        # Of a TIFF Pillow gives the turned size at once.
        return (width, height) if orientation(image, policy) >= 5 else (height, width)


@contextmanager
def _header(file: BinaryIO, name: Path | str, policy: PicturePolicy) -> Iterator[ImageFile.ImageFile]:
    """Open and check an image up to its pixels, which the body may load.

    Whatever Pillow raises, here or in the body, becomes a `PictureError`.
    """
    with foreign_errors(name):
        file.seek(0)
        start = file.read(_PPM_HEADER)
        decoder = _decoder(start)
        if not start:
            raise refusal(name, "is empty", FETCH)
        if decoder is None:
            raise refusal(
                name,
                f"is not a picture that can be read: it starts like {_lookalike(start[:64])}, {start[:24]!r}",
                f"{FETCH}, or convert it to PNG or JPEG (read are {_FORMATS})",
            )
        if decoder is WebPImageFile:
            _check_webp(file, name, start, policy)
        if decoder is PpmImageFile and start[:2] != b"Pf" and not _RAW_PPM.match(start):
            raise refusal(
                name,
                "is a PPM of a kind that is not read: plain text, another maximum than 255 or 65535, or a header of"
                f" more than {_PPM_HEADER} bytes",
                "save it as PNG",
            )
        file.seek(0)
        # Without a file name Pillow maps nothing into memory, and the file can be closed.
        image = decoder(file)
        check_size(name, *image.size, policy)
        check_content(name, image, policy)
        if isinstance(image, BmpImageFile) and image.tile and image.tile[0][0] == "bmp_rle":
            size = file.seek(0, 2)
            if size > _RUNS:
                raise refusal(
                    name, f"is a run-length BMP of {size:,} bytes, where {_RUNS:,} are read", "save it as PNG"
                )
        yield image


def _told_behind_pixels(file: BinaryIO) -> bool:
    """Whether a PNG has EXIF or text behind its pixels, where an orientation may stand."""
    file.seek(8)
    pixels = False
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4]), head[4:]
        pixels = pixels or kind == b"IDAT"
        if kind == b"IEND":
            return False
        if pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return True
        file.seek(length + 4, 1)
    return False


def _decoder(start: bytes) -> type[ImageFile.ImageFile] | None:
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return WebPImageFile
    if _PPM.match(start):
        return PpmImageFile
    return next((decoder for signature, decoder in _SIGNATURES.items() if start.startswith(signature)), None)


def _lookalike(start: bytes) -> str:
    if not start.strip(b"\0"):
        return "nothing but zero bytes"
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], "a video")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for signature, name in _LOOKALIKES.items():
        if text.startswith(signature) or start.startswith(signature):
            return name
    return "text" if start.isascii() and b"\0" not in start else "an unknown kind of file"


def _check_webp(file: BinaryIO, name: Path | str, start: bytes, policy: PicturePolicy) -> None:
    """Check a WebP before Pillow sees it: its decoder allocates the canvas as soon as it is made.

    Offsets and widths from RFC 9649, sections 2.4 to 2.7.
    """
    if int.from_bytes(start[4:8], "little") + 8 > file.seek(0, 2):
        raise refusal(name, "is truncated", FETCH)
    match start[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L":
            bits = int.from_bytes(start[21:25], "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            width, height = (int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    check_size(name, width, height, policy)
