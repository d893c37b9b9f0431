"""Whether an export's chat template makes of messages the ids that Lensmith's server makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from lensmith import Conversation, ConversationError, LensmithError
from lensmith.data.encode import encode
from lensmith.interfaces.text import IMAGE_ID, Tokenizer
from lensmith.serving.failures import RequestError
from lensmith.serving.messages import dialogue
from lensmith.serving.protocol import Message

_PIXEL = "data:image/png;base64,iVBORw0KGgo="
_IMAGE: dict[str, Any] = {"type": "image"}
_CITY = "Which city?"


def _text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def _user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if len(content) == 1 and isinstance(content[0], str) else [*content]}


def _answer(words: str) -> dict[str, Any]:
    return {"role": "assistant", "content": words}


_SYSTEM = {"role": "system", "content": "Be kind. Öl!"}
FORMS: dict[str, list[dict[str, Any]]] = {
    "a text": [_user(_CITY)],
    "a text with space around it": [_user("  Which city?\n")],
    "a picture and a text": [_user(_IMAGE, _text(_CITY))],
    "a text and a picture": [_user(_text(_CITY), _IMAGE)],
    "a picture alone": [_user(_IMAGE)],
    "text, picture, text": [_user(_text("First"), _IMAGE, _text("Athens or Bern?"))],
    "two pictures in a row": [_user(_IMAGE, _IMAGE, _text("Which is larger?"))],
    "pictures and texts in turn": [_user(_IMAGE, _text("one\n"), _IMAGE, _text("\ntwo"), _text("three"))],
    "a system message": [_SYSTEM, _user(_CITY)],
    "two system messages": [_SYSTEM, {"role": "developer", "content": [_text("Short.")]}, _user(_IMAGE, _text(_CITY))],
    "a system message without words": [{"role": "system", "content": ""}, _user(_CITY)],
    "two rounds": [_user(_IMAGE, _text(_CITY)), _answer("Bern."), _user("Sure?")],
    "three rounds": [_SYSTEM, _user("Hi"), _answer("Ho"), _user(_text("a"), _IMAGE), _answer("b\nc "), _user(" d")],
    "texts of other scripts": [_user("¿Qué? 北京 или 🦊\t1234  x")],
    "a special token in a text": [_user("What does </s> or <|im_end|> mean?")],
    "an empty text": [_user("")],
    "two questions in a row": [_user("a"), _user("b")],
    "an answer first": [_answer("a"), _user("b")],
    "a system message later": [_user("a"), _answer("b"), _SYSTEM, _user("c")],
}
"""Messages as clients send them; the last is the user's."""
NEEDED = ("a text", "a picture and a text", "text, picture, text", "two rounds")
"""What a template may not refuse."""


def served_ids(
    messages: Sequence[dict[str, Any]], conversation: Conversation, tokenizer: Tokenizer
) -> list[int] | None:
    """The ids that `lensmith serve` makes, `IMAGE_ID` for each picture; None for messages that it refuses.

    Args:
        messages: as clients send them, a picture as `{"type": "image"}`.
        conversation: bound to the tokenizer.
        tokenizer: the artifact's.
    """
    try:
        spoken = dialogue([Message.model_validate(_as_request(message)) for message in messages])
        if spoken.system is not None:
            conversation = conversation.with_system(spoken.system)
        return encode(conversation.render(spoken.turns, reply=True), tokenizer).ids
    except (ConversationError, RequestError):
        return None


def differences(
    apply: Callable[[list[dict[str, Any]]], list[int]],
    conversation: Conversation,
    tokenizer: Tokenizer,
    image_id: int,
    forms: Sequence[str] = tuple(FORMS),
    positions: int = 1,
) -> Iterator[str]:
    """Forms of messages of which another program makes other ids than the server, each told.

    A form that either of them refuses is left out, but for those that are needed.

    Args:
        apply: ids of open messages by that program; raises where it refuses them.
        conversation, tokenizer: the artifact's.
        image_id: stands for an image.
        forms: which of `FORMS`.
        positions: how often in a row it stands for each image; a processor makes room for all features.
    """
    for form in forms:
        expected = served_ids(FORMS[form], conversation, tokenizer)
        try:
            found = _images(apply(FORMS[form]), image_id, positions)
        except Exception as error:  # a template's own exception, wrapped by whoever renders it
            if expected is not None and form in NEEDED:
                yield f"{form}: refused ({' '.join(str(error).split())[:200]})"
            continue
        if expected is None:
            yield f"{form}: {len(found)} ids, where `lensmith serve` refuses it"
        elif found != expected:
            at = next((n for n, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), -1)
            yield (
                f"{form}: {len(found)} ids and not {len(expected)}, other ones from position {at}"
                f" ({found[at : at + 4]}, not {expected[at : at + 4]})"
            )


def require_same(found: Sequence[str], by: str) -> None:
    """Refuse an export whose template differs.

    Raises:
        LensmithError: with the first forms.
    """
    if found:
        raise LensmithError(f"its chat template, {by}, makes other ids than `lensmith serve`: {'; '.join(found[:3])}")


def _images(ids: Sequence[int], image_id: int, positions: int) -> list[int]:
    """Ids with each `positions` image ids in a row as one `IMAGE_ID`; what is left of a run stays.

    Runs are not taken for one image: nothing may stand between two, as where a tokenizer drops the line break there.
    """
    made: list[int] = []
    for index, run in groupby(ids):
        count = sum(1 for _ in run)
        if index == image_id:
            whole, count = divmod(count, positions)
            made += [IMAGE_ID] * whole
        made += [index] * count
    return made


def _as_request(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, list):
        return message
    shown = {"type": "image_url", "image_url": {"url": _PIXEL}}
    return {**message, "content": [shown if part == _IMAGE else part for part in content]}
