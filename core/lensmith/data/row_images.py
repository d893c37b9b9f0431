"""Images as rows name them: a path below the source's folder, a data URI or base64; nothing else is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.data.row_keys import is_empty, short
from lensmith.errors import DataError
from lensmith.io.json import kind_name

if TYPE_CHECKING:
    from PIL import Image

    from lensmith.spec.pictures import PicturePolicy

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def image_names(value: Any, key: str) -> list[str]:
    """The images that a row's value names; none where it is empty.

    Args:
        value: a path, a data URI, base64, an object with `path`, `bytes` (base64) or `url`, or a list of these.
        key: of the value, for messages.

    Raises:
        DataError: something else. It says neither which row nor where.
    """
    if is_empty(value):
        return []
    if isinstance(value, list):
        return [_name(item, f"`{key}`, entry {number},") for number, item in enumerate(value)]
    if not isinstance(value, (str, Mapping)):
        raise DataError(f"`{key}` is {kind_name(value)}, not a path or a list of paths")
    return [_name(value, f"`{key}`")]


def is_inline(name: str) -> bool:
    """Whether a row's image is the image itself rather than its path."""
    from lensmith.data.inline_images import is_data_uri, like_base64

    return is_data_uri(name) or (len(name) > 64 and like_base64(name))


def open_image(root: Path, name: str, policy: PicturePolicy) -> Image.Image:
    """The RGB pixels of a row's image.

    Args:
        root: the folder that paths start from.
        name: as the row gives it.
        policy: which images are taken, and how.

    Raises:
        PictureError: it is missing or cannot be used.
    """
    from lensmith.data.pictures import open_picture, resolve_inside

    if is_inline(name):
        from lensmith.data.image_inputs import decode_image

        return decode_image(name, policy, f"{name[:24]}\u2026")
    return open_picture(resolve_inside(root, name), policy)


def image_size(root: Path, name: str, policy: PicturePolicy) -> tuple[int, int]:
    """(height, width) of a row's image; of a file from its header alone.

    Raises:
        PictureError: as `open_image`, but for damage that only decoding a file shows.
    """
    from lensmith.data.pictures import picture_size, resolve_inside

    if is_inline(name):
        opened = open_image(root, name, policy)
        return opened.height, opened.width
    return picture_size(resolve_inside(root, name), policy)


def checked_size(root: Path, name: str, policy: PicturePolicy) -> tuple[int, int]:
    """(height, width) of a row's image once all of it was decoded, within limits of time and memory.

    Raises:
        PictureError: as `open_image`.
    """
    from lensmith.data.bounded import bounded_size
    from lensmith.data.pictures import resolve_inside

    if is_inline(name):
        return image_size(root, name, policy)
    return bounded_size(resolve_inside(root, name), policy)


def _name(item: Any, where: str) -> str:
    if isinstance(item, Mapping):
        return _of_object(item, where)
    if not isinstance(item, str):
        raise DataError(f"{where} is {kind_name(item)}, not a path or a list of paths")
    if not item.strip():
        raise DataError(f"{where} is empty; write the path of the image, or leave it out")
    if item[:5].lower() == "data:" and not re.match(r"data:[^,]*;\s*base64,", item[:300], re.IGNORECASE):
        raise DataError(f"{where} is a data URI that is not base64; write data:image/png;base64,\u2026")
    if found := _ADDRESS.match(item):
        kind = "the address of a file" if found[0].lower() == "file://" else "an address"
        raise DataError(
            f"{where} is {kind} ({short(item)}), and nothing is fetched while training; fetch it to the source's"
            " `images` folder and write the path below that"
        )
    return item


def _of_object(item: Mapping[str, Any], where: str) -> str:
    """The image of `{"path"}`, `{"bytes"}` or `{"url"}`, as the datasets library and chats write it."""
    for key in ("bytes", "path", "url", "image", "image_url"):
        value = item.get(key)
        if isinstance(value, (str, Mapping)) and value:
            return _name(value, where)
        if not is_empty(value):
            raise DataError(f"{where} has {kind_name(value)} as `{key}`; write base64 or a path, as text")
    keys = ", ".join(short(key) for key in list(item)[:4])
    raise DataError(f"{where} is an object with {keys or 'nothing'}, not a path or a list of paths; write its path")
