"""Whether a template writes all that a row says, word for word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lensmith import ConversationError
from lensmith_plugins.conversations.hidden_text import HiddenText
from lensmith_plugins.conversations.reasoning import parts_of, reasons

_SHOWN = 60


class Place(NamedTuple):
    """Where a message's words stand in a rendered text: half-open."""

    start: int
    end: int


def places(
    messages: Sequence[Mapping[str, str]],
    text: str,
    hidden: HiddenText,
    *,
    thinks: bool,
    origin: str,
    past: bool = False,
) -> list[Place]:
    """The place of each message's words in what a template wrote; of an empty one where the one before ends.

    Space around a message is the template's to trim, and with reasoning the space between it and the answer.

    Args:
        messages: as they were rendered, pictures and spelled tokens hidden.
        text: what the template wrote.
        hidden: what is hidden.
        thinks: whether the template writes reasoning itself.
        origin: whose template it is, for messages.
        past: all answers are past ones, whose reasoning a template may leave out: nothing is learnt of them.

    Raises:
        ConversationError: words that are not there, or not as they were; says which and how they were changed.
    """
    found: list[Place] = []
    reached = 0
    for number, message in enumerate(messages):
        content, system = message["content"], message["role"] == "system"
        apart = message["role"] == "assistant" and thinks and reasons(content)
        pieces = [piece for piece in (parts_of(content)[-past:] if apart else [content.strip()]) if piece]
        # Some templates write the system text into a later question.
        start, place = None, 0 if system else reached
        for piece in pieces:
            at = text.find(piece, place)
            if at < 0:
                turn = number - (messages[0]["role"] == "system")
                who = "the system text" if system else f"turn {turn} (the {message['role']}'s)"
                more = "; leave reasoning out of all answers but the last, or" if apart else ";"
                raise ConversationError(
                    f"the chat template {origin} {_how(piece, text[place:], hidden)} {who}:"
                    f" {_short(hidden.plain(piece))!r}{more} name another conversation (`chatml`, `llama_2`, …) or give"
                    " a corrected template as the field `template`"
                )
            start = at if start is None else start
            place = at + len(piece)
        found.append(Place(place if start is None else start, place))
        reached = reached if system else place
    return found


def _how(piece: str, text: str, hidden: HiddenText) -> str:
    if piece.lower() in text.lower():
        return "changes the case of"
    if "".join(piece.split()) in "".join(text.split()):
        return "changes spaces or line breaks of"
    for at_end in (False, True):
        low, high = 0, len(piece)
        while low < high:  # the longest part that is there: every shorter one is there too
            middle = (low + high + 1) // 2
            low, high = (middle, high) if _cut(piece, middle, at_end) in text else (low, middle - 1)
        if low >= max(4, len(piece) // 8):
            return f"keeps only {_short(hidden.plain(_cut(piece, low, at_end)))!r} of"
    return "drops or changes the words of"


def _cut(piece: str, size: int, at_end: bool) -> str:
    return piece[len(piece) - size :] if at_end else piece[:size]


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
