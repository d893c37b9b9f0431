"""LLaVA conversation rows: one JSON object to validated turns, pictures placed where the papers place them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lensmith.data.messages import Dialogue, read_dialogue
from lensmith.data.row_images import image_names
from lensmith.data.row_keys import unused_data
from lensmith.errors import DataError
from lensmith.interfaces.text import IMAGE_PLACEHOLDER, Role, Turn
from lensmith.io.json import kind_name

_LONGEST_ID = 200
_OTHER_MARKS = re.compile(
    r"<\|?(?:image_pad|image_\d+|image\d+|img_\d+|vision_start|image_start|start_of_image|image_soft_token)\|?>"
    r"|<\|(?:image|img|video|audio)\|>|<ImageHere>|<(?:Image|IMAGE)>|<image[_-](?:placeholder|token|here)>"
    r"|\[IMG\](?!.*\[/IMG\])|<im_patch>|<im_start><im_end>"
)
_BEGINNINGS = re.compile(r"\s*<(video|audio|img|speech)>|.*<(video|audio)>\s*\Z", re.DOTALL)
_TEXT = "set missing_images: text on the source if such rows are text"

MissingImages = Literal["error", "text"]


@dataclass(frozen=True)
class Row:
    """One training conversation.

    Args:
        id: the row's own id, or its number where it has none.
        images: as the row names them (see `row_images`), in the order of their places in the turns.
        turns: alternating messages, the user first.
        system: its own system text; None for the conversation's.
        unlearnt: numbers of the answers among the turns that are not learnt.
        notes: what is unusual and done all the same, for `lensmith data check`.
    """

    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    system: str | None = None
    unlearnt: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


class RowError(DataError):
    """A row that cannot be used."""


class LongRow(RowError):
    """A row over `max_length` that the spec leaves out (`long_rows: skip`): counted, not a mistake."""


def parse_row(
    raw: Any,
    *,
    number: int,
    placement: Literal["front", "keep"] = "front",
    missing_images: MissingImages = "error",
    ignored: Collection[str] = (),
) -> Row:
    """Validate one row.

    Args:
        raw: the decoded JSON value: `{"id", "image"?, "system"?, "conversations": [{"from", "value", "loss"?}, …]}`;
            `image` (or `images`) is a path, a data URI, base64, or a list of these; `messages` of `{"role", "content"}`
            are read too.
        number: the row's number, its id where it has none.
        placement: `front` moves pictures to the start of their turn, followed by a line break (the papers' way);
            `keep` leaves them where `<image>` stands.
        missing_images: what a row is that has no image and seems meant to have one (`image` null or an empty text,
            `<image>` in its words): a mistake, or `text`.
        ignored: keys that are passed over.

    Raises:
        RowError: what is wrong with the row, and the cure. It does not say which row: the caller knows.
    """
    if not isinstance(raw, Mapping):
        raise RowError(f"is {_kind(raw)}, not an object with `conversations`")
    try:
        named = _named_images(raw)
        said = read_dialogue(raw, ignored)
        if said.images and named:
            raise RowError("names images both in the row and in its turns; leave one")
        images = tuple(said.images or named)
        if told := unused_data(raw, images, ignored):
            raise RowError(told)
        system = _system(raw, said.system)
    except RowError:
        raise
    except DataError as error:
        raise RowError(str(error)) from error
    if not images and missing_images == "error":
        _refuse_missing(raw, said)
    turns, unlearnt = _turns(said, images, placement)
    shown = sum(turn.images for turn in turns)
    if shown != len(images):
        raise RowError(
            f"has {len(images)} picture{'s' * (len(images) != 1)} but {shown} {IMAGE_PLACEHOLDER} in its turns;"
            f" there must be one for each{_other_marks(said)}"
        )
    written = sum(text.count(IMAGE_PLACEHOLDER) for _, text in said.turns) if images else 0
    notes: tuple[str, ...] = ()
    if written > shown and said.turns:
        notes = (f"writes {IMAGE_PLACEHOLDER} more than once in a turn for its one picture; one is kept",)
    return Row(identity(raw, number), images, tuple(turns), system, frozenset(unlearnt), notes)


def _named_images(raw: Mapping[str, Any]) -> list[str]:
    """What `image` and `images` name; both may stand there where they say the same."""
    found = {key: names for key in ("image", "images") if (names := image_names(raw.get(key), key))}
    if len(found) == 2 and found["image"] != found["images"]:
        raise RowError("has both `image` and `images`, and they differ; leave one")
    return next(iter(found.values()), [])


def _system(raw: Mapping[str, Any], first: str | None) -> str | None:
    """The row's system text, from its key or its first message."""
    own = raw.get("system")
    if own is not None and not isinstance(own, str):
        raise RowError(f"`system` is {_kind(own)}, not text")
    if own and first and own != first:
        raise RowError("has a `system` and another system message in its turns; leave one")
    if own or first:
        return own or first
    return first if own is None else own


def _refuse_missing(raw: Mapping[str, Any], said: Dialogue) -> None:
    """Refuse a row without an image that seems meant to have one.

    Raises:
        RowError: what seems so, and the cures.
    """
    for key in ("image", "images"):
        if key in raw and raw[key] != []:  # an empty list says that there is none
            empty = "null" if raw[key] is None else "empty"
            raise RowError(f"has no picture: `{key}` is {empty}; name its file, leave the key out, or {_TEXT}")
    for (role, text), position in zip(said.turns, said.positions, strict=True):
        if IMAGE_PLACEHOLDER in text:
            raise RowError(
                f"turn {position} has {IMAGE_PLACEHOLDER} but the row names no picture; name its file in `image`, or"
                f" {_TEXT}"
            )
        mark = _OTHER_MARKS.search(text)
        begins = _BEGINNINGS.match(text) if role == "user" and mark is None else None
        if mark or begins:
            shown = mark[0] if mark else f"<{begins[1] or begins[2]}>" if begins else ""
            raise RowError(
                f"turn {position} has {shown}, the place of an image or the like in other tools, but the row names no"
                f" picture; name its file in `image` and write {IMAGE_PLACEHOLDER}, or {_TEXT}"
            )


def _other_marks(said: Dialogue) -> str:
    for _, text in said.turns:
        if found := _OTHER_MARKS.search(text):
            return f" (write {IMAGE_PLACEHOLDER} for {found[0]})"
    return ""


def _turns(said: Dialogue, images: Sequence[str], placement: Literal["front", "keep"]) -> tuple[list[Turn], set[int]]:
    turns: list[Turn] = []
    unlearnt: set[int] = set()
    last: Role | None = None
    before = 0
    for number, ((role, text), position) in enumerate(zip(said.turns, said.positions, strict=True)):
        if role == last:
            raise RowError(f"turns {before} and {position} are both {role}'s; they must alternate")
        last, before = role, position
        if number == 0 and role == "assistant":
            continue  # as the original does: an answer to a question that was cut off
        if number in said.unlearnt:
            unlearnt.add(len(turns))
        parts = _parts(text, placement, single=len(images) == 1) if images else (text,)
        turns.append(Turn(role, parts))
    if not turns:
        raise RowError("has no message of the user")
    return turns, unlearnt


def identity(raw: Any, number: int) -> str:
    """What a row is called: its own id, else its number."""
    own = raw.get("id") if isinstance(raw, Mapping) else None
    if isinstance(own, (dict, list)):
        return str(number)
    text = str(number if own is None else own)
    return text if len(text) <= _LONGEST_ID else text[: _LONGEST_ID - 1] + "…"


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
    return "missing" if value is None else kind_name(value)
