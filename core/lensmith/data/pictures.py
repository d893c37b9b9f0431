"""The one picture decoder: a file in, an RGB picture out, or an error that says why not.

Every picture of training, evaluation and the CLI passes through here, so that a file is read the same everywhere.
Pillow decodes; this module decides what Pillow leaves open (rotation, transparency, 16-bit grey, animations) and
refuses what would otherwise be silently wrong.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from lensmith.errors import DataError, LensmithError
from lensmith.interfaces.shapes import Size
from lensmith.spec.pictures import PicturePolicy


class PictureError(DataError):
    """A picture that cannot be used. The message reads `path: what is wrong; cure`."""


DEFAULT_POLICY = PicturePolicy()

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
_PPM = re.compile(rb"P[1-6f][\s#]")

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

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FETCH = "fetch the file again"


def open_picture(path: Path, policy: PicturePolicy = DEFAULT_POLICY) -> Image.Image:
    """Decode one file to 8-bit RGB.

    A plain 8-bit picture (RGB, grey, 1-bit, palette) is bit for bit `Image.open(path).convert("RGB")`. Colour
    profiles are ignored. 16-bit grey is scaled by 1/257; of 16-bit colours Pillow keeps the high byte. The format
    is read from the content, never from the file's name.

    Returns:
        A picture in memory; the file is closed, and nothing of its metadata is carried along, so that nobody
        turns it twice.

    Raises:
        PictureError: the file is missing, unreadable, damaged, no picture or outside the policy.
        DataError: Pillow is set to accept truncated files in this process.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on in this process, so that what a truncated file lacks "
            "would pass as grey; leave it off"
        )
    with _header(path, policy) as image:
        orientation = _orientation(image, policy)
        _allocate(image)
        image.load()
        rgb = _grey16(image, policy) if _is_grey16(image) else _rgb(image, policy)
        if orientation in _TRANSPOSE:
            rgb = rgb.transpose(_TRANSPOSE[orientation])
    rgb.info.clear()
    return rgb


def picture_size(path: Path, policy: PicturePolicy = DEFAULT_POLICY) -> Size:
    """(height, width) that `open_picture` would give, from the header alone.

    Raises:
        PictureError: as `open_picture`, but for damage that only decoding shows.
    """
    with _header(path, policy) as image:
        width, height = image.size
        # Of a TIFF Pillow gives the turned size at once.
        return (width, height) if _orientation(image, policy) >= 5 else (height, width)


def resolve_inside(root: Path, relative: str) -> Path:
    """The real path of a row's picture, which cannot lie outside the image folder.

    Symbolic links may be followed as long as they end inside; the folder itself may be one. What a folder's own
    link points to is remembered for the life of the process.

    Args:
        root: the image folder.
        relative: the path as the row gives it, with `/` between the parts.

    Returns:
        An absolute path without links. The file need not exist.

    Raises:
        PictureError: the path is empty, absolute, holds `..`, a backslash or a NUL, or a link leads out.
    """
    problem = _forbidden(relative)
    if not problem:
        folder = _real_folder(os.path.abspath(root))  # noqa: PTH100 - Path is too slow for every row
        try:
            real = os.path.realpath(os.path.join(folder, relative))  # noqa: PTH118
        except (OSError, ValueError) as error:
            problem = f"is not a usable path ({error})"
        else:
            if real.startswith(os.path.join(folder, "")):  # noqa: PTH118
                return Path(real)
            problem = "is the image folder itself" if real == folder else f"is a link that leads out, to {real}"
    raise _refusal(
        relative if relative.isprintable() and relative.strip() else ascii(relative),
        f"{problem}; rows may only name files inside the image folder {root}",
        "write the path relative to that folder",
    )


def _refusal(path: Path | str, problem: str, cure: str) -> PictureError:
    # The exception takes one argument, so that it survives the way back from a worker process.
    return PictureError(f"{path}: {problem}; {cure}")


@contextmanager
def _header(path: Path, policy: PicturePolicy) -> Iterator[ImageFile.ImageFile]:
    """Open and check a picture up to its pixels, which the body may load; the file is closed after it.

    Whatever Pillow raises, here or in the body, becomes a `PictureError`.
    """
    with _open_file(path) as file:
        try:
            start = file.read(64)
            decoder = _decoder(start)
            if decoder is None:
                raise _refusal(
                    path,
                    f"is not a picture that can be read: it starts like {_lookalike(start)}, {start[:24]!r}",
                    f"{_FETCH}, or convert it to PNG or JPEG (read are {_FORMATS})",
                )
            if decoder is WebPImageFile:
                _check_webp(path, start, policy)
            file.seek(0)
            # Without a file name Pillow maps nothing into memory, and the file can be closed.
            image = decoder(file)
            _check_size(path, *image.size, policy)
            _check_content(path, image, policy)
            _scale_transparency(image, start)
            yield image
        except (LensmithError, MemoryError):
            raise
        except Exception as error:  # decoders raise nearly any type on damaged input
            raise _refusal(path, *_explain(error)) from error


def _open_file(path: Path) -> BinaryIO:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _refusal(path, "is a directory", "name a picture file")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise _refusal(path, "is not a regular file", "name a picture file")
        if status.st_size == 0:
            raise _refusal(path, "is an empty file", _FETCH)
        return path.open("rb")
    except OSError as error:
        raise _refusal(path, *_explain(error)) from error
    except ValueError as error:  # a NUL, or characters that the file system cannot write
        raise _refusal(ascii(str(path)), f"is not a usable path ({error})", "check the path") from error


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


def _check_webp(path: Path, start: bytes, policy: PicturePolicy) -> None:
    """Check a WebP before Pillow sees it: its decoder allocates the canvas as soon as it is made.

    Offsets and widths from RFC 9649, sections 2.4 to 2.7.
    """
    if int.from_bytes(start[4:8], "little") + 8 > path.stat().st_size:
        raise _refusal(path, "is truncated", _FETCH)
    match start[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L":
            bits = int.from_bytes(start[21:25], "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            width, height = (int.from_bytes(start[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    _check_size(path, width, height, policy)


def _check_size(path: Path, width: int, height: int, policy: PicturePolicy) -> None:
    size = f"is {width} pixels wide and {height} high"
    if width < 1 or height < 1:
        raise _refusal(path, size, _FETCH)
    if width * height > policy.max_pixels:
        raise _refusal(
            path,
            f"{size}, {width * height:,} pixels where {policy.max_pixels:,} are allowed",
            "scale it down or raise `max_pixels`",
        )
    if max(width, height) > policy.max_aspect * min(width, height):
        raise _refusal(
            path,
            f"{size}, a longer side of more than {policy.max_aspect:g} times the shorter",
            "crop it or raise `max_aspect`",
        )


def _check_content(path: Path, image: ImageFile.ImageFile, policy: PicturePolicy) -> None:
    if image.mode == "F" or (image.mode == "I" and not _is_grey16(image)):
        kind = "floating-point numbers" if image.mode == "F" else "signed or 32-bit integers"
        raise _refusal(
            path, f"holds {kind}, whose black and white are not known", "save it with 8 or unsigned 16 bits a pixel"
        )
    if not policy.first_frame and getattr(image, "is_animated", False):
        frames = getattr(image, "n_frames", 1)
        raise _refusal(
            path, f"has {frames} frames", "save the one that is meant, or set `first_frame: true` to take the first"
        )


def _is_grey16(image: Image.Image) -> bool:
    # Pillow opens 16-bit PGM (and, in old versions, PNG) as 32-bit integers.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _scale_transparency(image: ImageFile.ImageFile, start: bytes) -> None:
    """Bring a PNG's transparent colour to the 8 bits to which Pillow brings the pixels, but not the colour."""
    colour = image.info.get("transparency")
    if not isinstance(image, PngImageFile) or colour is None:
        return
    depth = start[24]
    if image.mode == "L" and depth < 8:
        image.info["transparency"] = colour * 255 // (2**depth - 1)
    elif image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _orientation(image: ImageFile.ImageFile, policy: PicturePolicy) -> int:
    """EXIF orientation, 1 to 8, as far as it stands before the pixels; 1 where the EXIF cannot be read."""
    if not policy.exif or isinstance(image, TiffImageFile):  # Pillow turns a TIFF while it decodes
        return 1
    try:
        # The base class's method: a PNG's own decodes all pixels in search of EXIF behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # EXIF is decoration: damage to it never makes a picture unusable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _allocate(image: ImageFile.ImageFile) -> None:
    """Give a large TIFF its memory, which Pillow would do with a warning or a refusal by its own pixel limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if isinstance(image, TiffImageFile) and limit is not None and image.width * image.height > limit:
        stored = (image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength])
        image.im = Image.new(image.mode, stored, None).im


def _rgb(image: Image.Image, policy: PicturePolicy) -> Image.Image:
    if image.mode == "La":  # premultiplied; Pillow converts it no further than this
        image = image.convert("LA")
    if policy.alpha == "drop" or not image.has_transparency_data:
        image.info.pop("transparency", None)  # it has no say in the colours, and Pillow warns about it
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _grey16(image: Image.Image, policy: PicturePolicy) -> Image.Image:
    top, inverted = 65535, False
    if isinstance(image, TiffImageFile):
        top = 4095 if image.tag_v2.get(ExifTags.Base.BitsPerSample) == (12,) else top
        inverted = image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0
    blank = image.info.get("transparency") if policy.alpha == "white" else None
    return image.convert("I").point(_grey_table(top, inverted, blank), "L").convert("RGB")


@lru_cache(maxsize=8)
def _grey_table(top: int, inverted: bool, blank: int | None) -> list[int]:
    """8-bit grey of each of 65,536 values: 0..top to 0..255, rounded; `blank` is transparent, over white."""
    table = [min(255, (255 * value + top // 2) // top) for value in range(65536)]
    if inverted:
        table = [255 - grey for grey in table]
    if blank is not None:
        table[blank] = 255
    return table


def _explain(error: Exception) -> tuple[str, str]:
    """What is wrong, and the cure, for an exception of the file system or of Pillow."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return f"is refused by Pillow's own limit ({text})", "scale it down or raise PIL.Image.MAX_IMAGE_PIXELS"
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return "there is no such file", "check the path and the image folder"
        if error.errno in (errno.EACCES, errno.EPERM):
            return "may not be read", "give the user who runs this permission to read it"
        return f"cannot be read ({error.strerror})", "check the path and the disk"
    if "truncated" in text.lower() or "not enough image data" in text:
        return f"is truncated ({text})", _FETCH
    if "not identified by this driver" in text:
        return "has a header with a width or height of zero, or an unknown kind of pixel", _FETCH
    return f"is damaged or of a kind that is not supported ({text})", f"{_FETCH}, or save it as PNG or JPEG"


def _forbidden(relative: str) -> str:
    if not relative.strip():
        return "is empty"
    if "\0" in relative:
        return "holds a NUL character"
    if "\\" in relative:
        return "holds a backslash"
    if relative.startswith("/") or re.match(r"[A-Za-z]:/", relative):
        return "is an absolute path"
    if ".." in relative.split("/"):
        return "holds `..`"
    return ""


@lru_cache(maxsize=256)
def _real_folder(absolute: str) -> str:
    return os.path.realpath(absolute)
