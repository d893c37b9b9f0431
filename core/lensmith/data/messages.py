"""The turns of a row, as LLaVA's files (`conversations`) and as chats (`messages`) write them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from lensmith.data.row_images import image_names
from lensmith.data.row_keys import LEARNT, is_empty, plain_key, short, unused_in_turn
from lensmith.errors import DataError
from lensmith.interfaces.text import IMAGE_PLACEHOLDER, Role
from lensmith.io.json import kind_name

_ROLES: dict[str, Role] = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_SPEAKER, _WORDS = ("from", "role"), ("value", "content")
_FORM = 'a list of {"from": "human" | "gpt", "value": text}'
_ALONE = (
    ("question", "answer"),
    ("instruction", "output"),
    ("prompt", "response"),
    ("query", "response"),
    ("prompt", "completion"),
    ("text",),
    ("caption",),
)


@dataclass
class Dialogue:
    """What a row's turns say.

    Args:
        turns: role and words, images as placeholders.
        positions: of each turn in the row's list.
        system: a system message; None where there is none.
        unlearnt: numbers of answers that are not learnt.
        images: those that stand in the turns themselves.
        placed: places for images in turns that are lists of parts.
    """

    turns: list[tuple[Role, str]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    system: str | None = None
    unlearnt: set[int] = field(default_factory=set)
    images: list[str] = field(default_factory=list)
    placed: int = 0


def read_dialogue(raw: Mapping[str, Any], ignored: Collection[str]) -> Dialogue:
    """The turns of a row.

    Args:
        raw: the row.
        ignored: keys that are passed over.

    Raises:
        DataError: there are none, or one cannot be read. It does not say which row.
    """
    key = "conversations"
    if is_empty(raw.get(key)) and not is_empty(raw.get("messages")):
        key = "messages"
    elif not is_empty(raw.get(key)) and not is_empty(raw.get("messages")) and "messages" not in ignored:
        raise DataError(
            "has both `conversations` and `messages`; leave one, or name the other in the source's `ignore`"
        )
    messages = raw.get(key)
    if not isinstance(messages, list) or not messages:
        raise DataError(_no_turns(raw, messages))
    said = Dialogue()
    for position, message in enumerate(messages):
        _read(said, message, position, ignored, chat=key == "messages")
    return said


def _no_turns(raw: Mapping[str, Any], messages: Any) -> str:
    told = f"has no `conversations`: {_FORM}"
    if isinstance(messages, str):
        return f"{told}; here it is text ({short(messages)}): write the list itself, not JSON in quotes"
    if isinstance(messages, Mapping):
        return f"{told}; here it is an object: put it into a list"
    lists = [key for key, value in raw.items() if isinstance(value, list) and value and isinstance(value[0], Mapping)]
    for alone in _ALONE:
        if all(isinstance(raw.get(key), str) for key in alone):
            return f"{told}; write what it has as {' and '.join(f'`{key}`' for key in alone)} so"
    if lists and not is_empty(raw.get(lists[0])):
        key = lists[0]
        return (
            f"{told}; its `{short(key)}` is a list of {len(raw[key])} objects: if these are the rows, write only them"
        )
    keys = ", ".join(short(key) for key in list(raw)[:6])
    return f"{told}; here are {keys}" if keys else told


def _read(said: Dialogue, message: Any, position: int, ignored: Collection[str], *, chat: bool) -> None:
    if not isinstance(message, Mapping):
        raise DataError(f'turn {position} is {_kind(message)}, not {{"from": \u2026, "value": \u2026}}')
    speaker = _either(message, _SPEAKER, position)
    if speaker == "system" and chat:
        if position:
            raise DataError(f"turn {position} is a system message; only the first one may be, or the row's `system`")
        said.system = _words(said, message, position)
        if said.placed:
            raise DataError(f"turn {position}: a system message shows an image; images stand in the turns")
        return
    if not isinstance(speaker, str) or speaker not in _ROLES:
        named = ", ".join(_ROLES)
        cure = "; write a system text as the row's `system`" if speaker == "system" else ""
        raise DataError(f'turn {position} is from {_quoted(speaker)}; "from" is one of {named}{cure}')
    role = _ROLES[speaker]
    text = _words(said, message, position)
    if told := unused_in_turn(message, (*_SPEAKER, *_WORDS), ignored):
        raise DataError(f"turn {position}: {told}")
    if not _learnt(message, role, position, ignored):
        said.unlearnt.add(len(said.turns))
    said.turns.append((role, text))
    said.positions.append(position)


def _either(message: Mapping[str, Any], keys: tuple[str, str], position: int) -> Any:
    """The value of LLaVA's key or of the chats', whichever is there."""
    first, second = (message.get(key) for key in keys)
    if first is not None and second is not None and first != second:
        raise DataError(f"turn {position} has both `{keys[0]}` and `{keys[1]}`, and they differ; leave one")
    return second if first is None else first


def _words(said: Dialogue, message: Mapping[str, Any], position: int) -> str:
    value = _either(message, _WORDS, position)
    key = "content" if "value" not in message and "content" in message else "value"
    if isinstance(value, list) and key == "content":
        value = "".join(_part(said, part, position) for part in value)
    if value is None and isinstance(message.get("text"), str):
        raise DataError(f'turn {position}: its words are in "text"; call that "value"')
    if not isinstance(value, str):
        raise DataError(f'turn {position}: "{key}" is {_kind(value)}, not text')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        half = f'turn {position}: "{key}" holds half of a surrogate pair, which is no character; write it whole'
        raise DataError(half) from None
    return value


def _part(said: Dialogue, part: Any, position: int) -> str:
    """Text of one part of a message's content, an image as its placeholder."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in ("image", "image_url", "input_image"):
        found = [value for key in ("image", "image_url", "url", "path") if not is_empty(value := part.get(key))]
        if len(found) > 1:
            raise DataError(f"turn {position}: a part names its image twice; leave one")
        said.images += image_names(found[0], "image") if found else []
        said.placed += 1
        return IMAGE_PLACEHOLDER
    shown = f"of type {_quoted(kind)}" if kind is not None else _kind(part)
    raise DataError(f"turn {position}: a part of its content is {shown}; only text and images are read")


def _learnt(message: Mapping[str, Any], role: Role, position: int, ignored: Collection[str]) -> bool:
    """What a turn's `loss` (or `train`, `weight`, \u2026) says: whether an answer is learnt."""
    found: dict[str, bool] = {}
    for key, value in message.items():
        if value is None or key in ignored or plain_key(key) not in LEARNT:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise DataError(
                f"turn {position}: `{key}` is {short(value)}; an answer is learnt (true, 1) or not (false, 0)"
            )
        if role == "user" and value and "weight" not in key:
            raise DataError(f"turn {position}: `{key}` is true, but a user's words are never learnt; take it out")
        found[key] = bool(value)
    if len(set(found.values())) > 1:
        raise DataError(f"turn {position}: {' and '.join(f'`{key}`' for key in found)} differ; leave one")
    return role == "user" or all(found.values())


def _kind(value: Any) -> str:
    return "missing" if value is None else kind_name(value)


def _quoted(value: Any) -> str:
    return repr(short(value)) if isinstance(value, str) else short(value)
