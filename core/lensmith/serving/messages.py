"""Messages to turns and pictures. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lensmith.interfaces.text import Role, Turn
from lensmith.serving.failures import RequestError
from lensmith.serving.protocol import Message, TextPart


@dataclass(frozen=True)
class Shown:
    """A picture of a request.

    Args:
        place: where it stands in the request, for messages.
        url: as given.
    """

    place: str
    url: str


@dataclass(frozen=True)
class Dialogue:
    """What is asked.

    Args:
        turns: without system messages.
        system: their words, None where there is none.
        pictures: in the order of the turns.
    """

    turns: tuple[Turn, ...]
    system: str | None
    pictures: tuple[Shown, ...]


def dialogue(messages: Sequence[Message]) -> Dialogue:
    """Take messages apart. Whether they alternate is for the conversation to say.

    Raises:
        RequestError: a system message behind others, or a picture outside a user's message.
    """
    system: list[str] = []
    turns: list[Turn] = []
    pictures: list[Shown] = []
    for number, message in enumerate(messages):
        parts, shown = _parts(message, number)
        if message.role != "user" and shown:
            raise RequestError(
                f"messages.{number} is the {message.role}'s and shows a picture; only user messages may",
                param=shown[0].place,
            )
        if message.role in ("system", "developer"):
            if turns:
                text = f"messages.{number} is a system message behind others; put it first"
                raise RequestError(text, param=f"messages.{number}")
            system.append("".join(part for part in parts if part is not None))
            continue
        role: Role = "user" if message.role == "user" else "assistant"
        turns.append(Turn(role, parts))
        pictures += shown
    if not turns:
        raise RequestError("there is no user message; end with one", param="messages")
    return Dialogue(tuple(turns), "\n".join(system) if system else None, tuple(pictures))


def joined(pieces: Sequence[str | None]) -> tuple[str | None, ...]:
    """Words and pictures of one message, a line break between neighbours, as LLaVA's data has it.

    Args:
        pieces: in their order; None is a picture. A break that is there already is not doubled.
    """
    flat: list[str | None] = []
    for piece in pieces:
        if piece == "":
            continue
        broken = (piece or "").startswith("\n") or bool(flat and (flat[-1] or "").endswith("\n"))
        flat += [piece] if broken or not flat else ["\n", piece]
    parts: list[str | None] = []
    for shown, run in groupby(flat, key=lambda piece: piece is None):
        stretch = list(run)
        parts += stretch if shown else ["".join(piece or "" for piece in stretch)]
    return tuple(parts) or ("",)


def _parts(message: Message, number: int) -> tuple[tuple[str | None, ...], list[Shown]]:
    if isinstance(message.content, str):
        return (message.content,), []
    pieces: list[str | None] = []
    shown: list[Shown] = []
    for place, part in enumerate(message.content):
        if isinstance(part, TextPart):
            pieces.append(part.text)
        else:
            pieces.append(None)
            shown.append(Shown(f"messages.{number}.content.{place}.image_url", part.image_url.url))
    return joined(pieces), shown
