"""Images written as text: base64 as people's tools write it, alone or in a data URI."""

from __future__ import annotations

import base64
import binascii
import re

_DATA = re.compile(r"\s*data:[^,;]*((?:;[^,;]*)*),", re.IGNORECASE)
_BLANKS = str.maketrans("", "", " \t\r\n\f\v")
_URL_SAFE = str.maketrans("-_", "+/")
_IMAGES = ("/9j/", "_9j_", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkq", "TU0AK", "TU0BK", "Qk", "UDQ", "UDU", "UDY")
"""How the base64 of JPEG (in either alphabet), PNG, GIF, WebP (RIFF), TIFF, BMP and PPM begins."""
_SHORTEST = 64
"""Characters below which a text is rather a file's name."""


def from_base64(text: str) -> bytes:
    """Bytes of base64 of either alphabet, with or without padding and line breaks.

    Raises:
        ValueError: saying what is wrong.
    """
    plain = text.translate(_BLANKS).rstrip("=")
    if "%" in plain:
        raise ValueError("it is percent-encoded; decode that first")
    if ("-" in plain or "_" in plain) and ("+" in plain or "/" in plain):
        raise ValueError("it mixes the alphabets of base64 and of URL-safe base64")
    if len(plain) % 4 == 1:
        raise ValueError("its length is that of no base64; a piece of it is missing")
    try:
        return base64.b64decode(plain.translate(_URL_SAFE) + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(_stranger(plain) or str(error)) from None


def is_data_uri(text: str) -> bool:
    """Whether a text begins like `data:`."""
    return text[:64].lstrip()[:5].lower() == "data:"


def from_data_uri(uri: str) -> bytes:
    """Bytes of `data:image/png;base64,…`; whether the kind that it names is the image's does not matter.

    Raises:
        ValueError: saying what is wrong.
    """
    return from_base64(uri[body_of(uri) :])


def body_of(uri: str) -> int:
    """Where the base64 of a data URI begins.

    Raises:
        ValueError: it is not base64.
    """
    found = _DATA.match(uri)
    if found is None or not found[1].lower().replace(" ", "").endswith(";base64"):
        raise ValueError("it is not base64; write data:image/png;base64,… and the file's base64")
    return found.end()


def like_base64(text: str) -> bool:
    """Whether a text can only be an image's base64, told by its beginning."""
    start = text[:256].lstrip()
    return (
        len(text) >= _SHORTEST and start.startswith(_IMAGES) and re.match(r"[\w+/=\s-]*\Z", start, re.ASCII) is not None
    )


def _stranger(text: str) -> str:
    found = re.search(r"[^A-Za-z0-9+/_-]", text)
    return f"it holds {found[0]!r}, which is no base64" if found else ""
