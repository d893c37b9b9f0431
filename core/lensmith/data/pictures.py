"""Image files: a path in, an RGB image out, or an error that says why not; and the paths that rows may name.

Every image file of training, evaluation and the CLI passes through here, so that a file is read the same everywhere;
what comes as bytes, arrays or opened images is read in `image_inputs`, by the same decoder.
"""

from __future__ import annotations

import os
import re
import stat
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from lensmith.data.decoding import decode_stream, stream_size
from lensmith.data.pixels import FETCH, PictureError, explained, refusal
from lensmith.interfaces.shapes import Size
from lensmith.spec.pictures import PicturePolicy

__all__ = ["DEFAULT_POLICY", "PictureError", "PicturePolicy", "open_picture", "picture_size", "resolve_inside"]

DEFAULT_POLICY = PicturePolicy()


_LONGEST_PATH, _SHOWN_PATH = 4096, 60
"""Characters of a path, and of what is none in messages."""


def open_picture(path: Path, policy: PicturePolicy = DEFAULT_POLICY) -> Image.Image:
    """Decode one file to 8-bit RGB; see `to_rgb`. The format is read from the content, never from the file's name.

    Returns:
        An image in memory; the file is closed, and nothing of its metadata is carried along.

    Raises:
        PictureError: the file is missing, unreadable, damaged, no picture or outside the policy.
        DataError: Pillow is set to accept truncated files in this process.
    """
    with _open_file(path) as file:
        return decode_stream(file, path, policy)


def picture_size(path: Path, policy: PicturePolicy = DEFAULT_POLICY) -> Size:
    """(height, width) that `open_picture` would give, from the header alone.

    Raises:
        PictureError: as `open_picture`, but for damage that only decoding shows.
    """
    with _open_file(path) as file:
        return stream_size(file, path, policy)


def resolve_inside(root: Path, relative: str) -> Path:
    """The real path of a row's picture, which cannot climb out of the image folder.

    Symbolic links below the folder are the user's own and are followed wherever they lead; the folder itself may be
    one. What a folder's own link points to is remembered for the life of the process.

    Args:
        root: the image folder.
        relative: the path as the row gives it, with `/` between the parts.

    Returns:
        An absolute path without links. The file need not exist.

    Raises:
        PictureError: the path is empty, absolute or too long, or holds `..`, a backslash or a NUL.
    """
    problem = _forbidden(relative)
    if len(relative) > _LONGEST_PATH:
        problem = f"is {len(relative):,} characters long and no image as base64"
    if not problem:
        folder = _real_folder(os.path.abspath(root))  # noqa: PTH100 - Path is too slow for every row
        try:
            real = os.path.realpath(os.path.join(folder, relative))  # noqa: PTH118
        except (OSError, ValueError) as error:
            problem = f"is not a usable path ({error})"
        else:
            if real != folder:
                return Path(real)
            problem = "is the image folder itself"
    shown = relative if len(relative) <= _LONGEST_PATH else relative[:_SHOWN_PATH] + "…"
    raise refusal(
        shown if shown.isprintable() and shown.strip() else ascii(shown),
        f"{problem}; rows may only name files inside the image folder {root}",
        "write the path relative to that folder",
    )


def _open_file(path: Path) -> BinaryIO:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise refusal(path, "is a directory", "name a picture file")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise refusal(path, "is not a regular file", "name a picture file")
        if status.st_size == 0:
            raise refusal(path, "is an empty file", FETCH)
        return path.open("rb")
    except OSError as error:
        raise refusal(path, *explained(error)) from error
    except ValueError as error:  # a NUL, or characters that the file system cannot write
        raise refusal(ascii(str(path)), f"is not a usable path ({error})", "check the path") from error


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
