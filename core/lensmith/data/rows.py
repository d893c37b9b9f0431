"""LLaVA conversation rows: one JSON object to validated turns, pictures placed where the papers place them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lensmith.errors import DataError
from lensmith.interfaces.text import IMAGE_PLACEHOLDER, Role, Turn

_ROLES: dict[str, Role] = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


@dataclass(frozen=True)
class Row:
    """One training conversation.

    Args:
        id: the row's own id, or its number where it has none.
        images: picture paths as the row gives them, in the order of their places in the turns.
        turns: alternating messages, the user first.
    """

    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]


class RowError(DataError):
    """A row that cannot be used."""


class LongRow(RowError):
    """A row over `max_length` that the spec leaves out (`long_rows: skip`): counted, not a mistake."""


def parse_row(raw: Any, *, number: int, placement: Literal["front", "keep"] = "front") -> Row:
    """Validate one row.

    Args:
        raw: the decoded JSON value: `{"id", "image"?, "conversations": [{"from", "value"}, …]}`; `image` is a path
            or a list of paths.
        number: the row's number, its id where it has none.
        placement: `front` moves pictures to the start of their turn, followed by a line break (the papers' way);
            `keep` leaves them where `<image>` stands.

    Raises:
        RowError: what is wrong with the row, and the cure. It does not say which row: the caller knows.
    """
    if not isinstance(raw, Mapping):
        raise RowError(f"is {_kind(raw)}, not an object with `conversations`")
    images = _images(raw.get("image"))
    messages = raw.get("conversations")
    if not isinstance(messages, list) or not messages:
        raise RowError('has no `conversations`: a list of {"from": "human" | "gpt", "value": text}')
    turns: list[Turn] = []
    last: Role | None = None
    for position, message in enumerate(messages):
        role, text = _message(message, position)
        if role == last:
            raise RowError(f"turns {position - 1} and {position} are both {role}'s; they must alternate")
        last = role
        if position == 0 and role == "assistant":
            continue  # as the original does: an answer to a question that was cut off
        parts = _parts(text, placement, single=len(images) == 1) if images else (text,)
        turns.append(Turn(role, parts))
    if not turns:
        raise RowError("has no message of the user")
    shown = sum(turn.images for turn in turns)
    if shown != len(images):
        raise RowError(
            f"has {len(images)} picture{'s' * (len(images) != 1)} but {shown} {IMAGE_PLACEHOLDER} in its turns;"
            " there must be one for each"
        )
    return Row(identity(raw, number), images, tuple(turns))


def identity(raw: Any, number: int) -> str:
    """What a row is called: its own id, else its number."""
    own = raw.get("id") if isinstance(raw, Mapping) else None
    return str(number if own is None else own)


def user_turn(text: str, images: int) -> Turn:
    """A question about so many pictures, as the user types it.

    Pictures stand where `<image>` does, else in front.

    Raises:
        RowError: `<image>` appears, but not once for each picture.
    """
    written = text.count(IMAGE_PLACEHOLDER)
    if written not in (0, images):
        raise RowError(
            f"the prompt holds {written} {IMAGE_PLACEHOLDER} for {images} pictures; write one for each, or none"
        )
    if written:
        return Turn("user", _parts(text, "keep", single=False))
    return Turn("user", _front(text, images))


def _images(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise RowError(f"`image` is {_kind(value)}, not a path or a list of paths")
    return tuple(paths)


def _message(message: Any, position: int) -> tuple[Role, str]:
    if not isinstance(message, Mapping):
        raise RowError(f'turn {position} is {_kind(message)}, not {{"from": …, "value": …}}')
    speaker, text = message.get("from"), message.get("value")
    if speaker not in _ROLES:
        raise RowError(f'turn {position} is from {speaker!r}; "from" is one of {", ".join(_ROLES)}')
    if not isinstance(text, str):
        raise RowError(f'turn {position}: "value" is {_kind(text)}, not text')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        half = f'turn {position}: "value" holds half of a surrogate pair, which is no character; write it whole'
        raise RowError(half) from None
    return _ROLES[speaker], text


def _parts(text: str, placement: Literal["front", "keep"], *, single: bool) -> tuple[str | None, ...]:
    pieces = text.split(IMAGE_PLACEHOLDER)
    count = len(pieces) - 1
    if not count:
        return (text,)
    if placement == "front":
        # A row with one picture may repeat its placeholder in a turn; the original keeps one.
        return _front("".join(pieces).strip(), 1 if single else count)
    parts: list[str | None] = []
    for piece in pieces:
        parts += [piece, None] if piece else [None]
    return tuple(parts[:-1])


def _front(text: str, images: int) -> tuple[str | None, ...]:
    parts: list[str | None] = []
    for _ in range(images):
        parts += [None, "\n"]
    if not text and parts:
        return tuple(parts[:-1])
    return (*parts[:-1], "\n" + text) if parts else (text,)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "missing"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
