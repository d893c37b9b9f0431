"""What an opened image becomes: 8-bit RGB, with the decisions that Pillow leaves open.

Rotation, transparency, 16-bit grey and animations are decided here, the same for a file, its bytes and an image that
somebody has opened; what would otherwise be silently wrong is refused.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from PIL import ExifTags, Image, ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from lensmith.errors import DataError, LensmithError
from lensmith.spec.pictures import PicturePolicy


class PictureError(DataError):
    """An image that cannot be used. The message reads `name: what is wrong; cure`."""


_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FETCH = "fetch the file again"


def to_rgb(image: Image.Image, name: Path | str, policy: PicturePolicy) -> Image.Image:
    """8-bit RGB of an image that Pillow has opened, loaded or made.

    A plain 8-bit image (RGB, grey, 1-bit, palette) is bit for bit `image.convert("RGB")`. Colour profiles are ignored.
    16-bit grey is scaled by 1/257; of 16-bit colours Pillow keeps the high byte. An image of several frames that was
    moved to a later one is that frame.

    Args:
        image: it keeps its pixels and its metadata.
        name: what messages call it.
        policy: which images are taken, and how.

    Returns:
        An image in memory without metadata, so that nobody turns it twice.

    Raises:
        PictureError: outside the policy, damaged, closed, or of numbers whose black and white are not known.
        DataError: Pillow is set to accept truncated files in this process.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on in this process, so that what a truncated file lacks "
            "would pass as grey; leave it off"
        )
    with foreign_errors(name):
        check_size(name, *image.size, policy)
        check_content(name, image, policy)
        if isinstance(image, ImageFile.ImageFile) and image.tile and image.fp is None:
            raise ValueError("closed image")
        blank = _transparent_colour(image) if policy.alpha == "white" else None
        _allocate(image)
        image.load()
        turn = orientation(image, policy)  # what stands behind a PNG's pixels has been read by now
        rgb = _grey16(image, policy) if _is_grey16(image) else _rgb(image, policy, blank)
        if turn in _TRANSPOSE:
            rgb = rgb.transpose(_TRANSPOSE[turn])
        rgb.info.clear()
        return rgb


def refusal(name: Path | str, problem: str, cure: str) -> PictureError:
    """An error that takes one argument, so that it survives the way back from a worker process."""
    return PictureError(f"{name}: {problem}; {cure}")


@contextmanager
def foreign_errors(name: Path | str) -> Iterator[None]:
    """Whatever Pillow raises becomes a `PictureError`."""
    try:
        yield
    except (LensmithError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly any type on damaged input
        raise refusal(name, *explained(error)) from error


def check_size(name: Path | str, width: int, height: int, policy: PicturePolicy) -> None:
    """Refuse an image that is empty, too large or too narrow for the policy."""
    size = f"is {width} pixels wide and {height} high"
    if width < 1 or height < 1:
        raise refusal(name, size, FETCH)
    if width * height > policy.max_pixels:
        raise refusal(
            name,
            f"{size}, {width * height:,} pixels where {policy.max_pixels:,} are allowed",
            "scale it down or raise `max_pixels`",
        )
    if max(width, height) > policy.max_aspect * min(width, height):
        raise refusal(
            name,
            f"{size}, a longer side of more than {policy.max_aspect:g} times the shorter",
            "crop it or raise `max_aspect`",
        )


def check_content(name: Path | str, image: Image.Image, policy: PicturePolicy) -> None:
    """Refuse numbers whose meaning is not known, and several frames where one is meant."""
    if image.mode == "F" or (image.mode == "I" and not _is_grey16(image)):
        kind = "floating-point numbers" if image.mode == "F" else "signed or 32-bit integers"
        raise refusal(
            name, f"holds {kind}, whose black and white are not known", "save it with 8 or unsigned 16 bits a pixel"
        )
    if not policy.first_frame and image.tell() == 0 and getattr(image, "is_animated", False):
        frames = getattr(image, "n_frames", 1)
        raise refusal(
            name, f"has {frames} frames", "save the one that is meant, or set `first_frame: true` to take the first"
        )


def _is_grey16(image: Image.Image) -> bool:
    # Pillow opens 16-bit PGM (and, in old versions, PNG) as 32-bit integers.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _transparent_colour(image: Image.Image) -> object:
    """A PNG's transparent colour in the 8 bits to which Pillow brings the pixels, but not the colour."""
    colour = image.info.get("transparency")
    if not isinstance(image, PngImageFile) or colour is None:
        return colour
    depth = _png_depth(image)
    if depth is None and _unclear(image, colour):
        raise ValueError("was loaded from a stream, and what its transparent colour means stands in the file alone")
    if image.mode == "L" and isinstance(colour, int):
        return colour * 255 // (2**depth - 1) if depth is not None and depth < 8 else colour
    if image.mode == "RGB" and isinstance(colour, tuple) and (max(colour) > 255 or depth == 16):
        return tuple(value >> 8 for value in colour)
    return colour


def _png_depth(image: PngImageFile) -> int | None:
    """Bits of a sample: from what Pillow will unpack or, where that is done, from the file; None where it is gone."""
    if image.tile:
        _, _, bits = str(image.tile[0][3]).partition(";")
        return int(bits.rstrip("B") or 8)
    try:
        with Path(str(image.filename)).open("rb") as file:
            start = file.read(25)
    except (OSError, ValueError):
        return None
    return start[24] if start.startswith(b"\x89PNG") and len(start) == 25 else None


def _unclear(image: PngImageFile, colour: object) -> bool:
    """Whether pixels are transparent by one reading of a colour, in 8 bits or in the file's, and not by another."""
    there = {value for _, value in image.getcolors(image.width * image.height) or ()}
    if colour in there:
        return False
    if image.mode == "L" and isinstance(colour, int):
        scaled = {colour * 17, colour * 85 if colour < 4 else -1}
        return colour < 16 and bool(scaled & there) and all(isinstance(grey, int) and grey % 17 == 0 for grey in there)
    return image.mode == "RGB" and isinstance(colour, tuple) and max(colour) < 256 and (0, 0, 0) in there


def orientation(image: Image.Image, policy: PicturePolicy) -> int:
    """EXIF orientation, 1 to 8, as far as it has been read; 1 where the EXIF cannot be read."""
    if not policy.exif or isinstance(image, TiffImageFile):  # Pillow turns a TIFF while it decodes
        return 1
    try:
        # The base class's method: a PNG's own decodes all pixels in search of EXIF behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # EXIF is decoration: damage to it never makes a picture unusable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _allocate(image: Image.Image) -> None:
    """Give a large TIFF its memory, which Pillow would do with a warning or a refusal by its own pixel limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if isinstance(image, TiffImageFile) and limit is not None and image.width * image.height > limit:
        stored = (image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength])
        image.im = Image.new(image.mode, stored, None).im


def _rgb(image: Image.Image, policy: PicturePolicy, blank: object) -> Image.Image:
    if image.mode == "La":  # premultiplied; Pillow converts it no further than this
        image = image.convert("LA")
    transparent = policy.alpha == "white" and image.has_transparency_data
    if "transparency" in image.info:  # it has no say in the colours, and Pillow warns about it
        image = image.copy()
        if transparent:
            image.info["transparency"] = blank
        else:
            del image.info["transparency"]
    if not transparent:
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


def explained(error: Exception) -> tuple[str, str]:
    """What is wrong, and the cure, for an exception of the file system or of Pillow."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return f"is refused by Pillow's own limit ({text})", "scale it down or raise PIL.Image.MAX_IMAGE_PIXELS"
    if text.startswith("was loaded from a stream"):
        return text, "pass its path or its bytes"
    if "closed image" in text or "closed file" in text:
        return "was closed before it came here", "pass its path, or an image that was loaded and copied"
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return "there is no such file", "check the path and the image folder"
        if error.errno in (errno.EACCES, errno.EPERM):
            return "may not be read", "give the user who runs this permission to read it"
        return f"cannot be read ({error.strerror})", "check the path and the disk"
    if "truncated" in text.lower() or "not enough image data" in text:
        return f"is truncated ({text})", FETCH
    if "not identified by this driver" in text:
        return "has a header with a width or height of zero, or an unknown kind of pixel", FETCH
    return f"is damaged or of a kind that is not supported ({text})", f"{FETCH}, or save it as PNG or JPEG"
