"""What templates share: checking turns and writing segments."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from lensmith import Conversation, ConversationError, Segment, Turn
from lensmith_plugins.conversations.specs import ScriptSpec


def check_turns(turns: Sequence[Turn], *, reply: bool) -> None:
    """Refuse what is not an alternating conversation.

    Raises:
        ConversationError: which turn is out of order, or that an open reply has no question.
    """
    if not turns:
        raise ConversationError("the conversation has no turns")
    for number, turn in enumerate(turns):
        expected = ("user", "assistant")[number % 2]
        if turn.role != expected:
            raise ConversationError(
                f"turn {number} is the {turn.role}'s where the {expected}'s must stand;"
                " messages alternate and the user begins"
            )
    if reply and turns[-1].role != "user":
        raise ConversationError("the last turn is the assistant's; a reply needs a question of the user")


def is_empty(turn: Turn) -> bool:
    """Whether a message neither says nor shows anything."""
    return not turn.text and not turn.images


class SystemConversation(Conversation):
    """A template whose spec has its system text as the field `system`."""

    spec: Any

    def with_system(self, text: str) -> Conversation:
        """See `Conversation.with_system`."""
        other = copy.copy(self)
        other.spec = self.spec.model_copy(update={"system": text})
        return other


class Script:
    """Segments as they are written; neighbouring text of one kind becomes one segment.

    Args:
        spec: of the template, for what it writes around pictures.
    """

    def __init__(self, spec: ScriptSpec | None = None) -> None:
        self.segments: list[Segment] = []
        self._words = spec.image_words if spec else None
        self._tags = spec.image_tags if spec else None

    def text(self, text: str, *, supervised: bool = False) -> Script:
        """Write text."""
        last = self.segments[-1] if self.segments else None
        if last is not None and last.kind == "text" and last.supervised == supervised:
            self.segments[-1] = Segment(last.text + text, supervised)
        elif text:
            self.segments.append(Segment(text, supervised))
        return self

    def message(self, turn: Turn, *, supervised: bool = False) -> Script:
        """Write a message's words and pictures in their order."""
        for part in turn.parts:
            if part is None:
                self.picture(supervised=supervised)
            else:
                self.text(part, supervised=supervised)
        return self

    def picture(self, *, supervised: bool = False) -> Script:
        """Write a picture with the words and special tokens around it."""
        opening, closing = self._words or ("", "")
        self.text(opening, supervised=supervised)
        if self._tags:
            self.token(self._tags[0], supervised=supervised)
        self.segments.append(Segment(supervised=supervised, kind="image"))
        if self._tags:
            self.token(self._tags[1], supervised=supervised)
        return self.text(closing, supervised=supervised)

    def token(self, token: str, *, supervised: bool = False) -> Script:
        """Write a special token by its literal."""
        self.segments.append(Segment(token, supervised, "token"))
        return self

    def end(self) -> Script:
        """Write the language model's own end token, which ends an answer and is learnt."""
        self.segments.append(Segment(supervised=True, kind="eos"))
        return self
