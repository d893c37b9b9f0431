"""From turns to segments, each learnt or not. Imported when the conversation is used."""

from __future__ import annotations

from collections.abc import Sequence

from lensmith import Conversation, ConversationError, Segment, Turn

from .spec import ExamplePartSpec


class ExamplePartConversation(Conversation):
    """See `ExamplePartSpec`."""

    def __init__(self, spec: ExamplePartSpec) -> None:
        self.spec = spec

    def render(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Segment]:
        """Turn a conversation into segments; answers and the tokens that end them are learnt.

        Raises:
            ConversationError: messages that do not alternate.
        """
        segments = [Segment(f"{self.spec.system}\n")] if self.spec.system else []
        for number, turn in enumerate(turns):
            if turn.role != ("user", "assistant")[number % 2]:
                raise ConversationError(f"turn {number} is the {turn.role}'s; messages alternate and the user begins")
            answer = turn.role == "assistant"
            segments.append(Segment(f"{self.spec.assistant if answer else self.spec.user}:"))
            segments.append(Segment(" ", answer))
            for part in turn.parts:  # None stands for a picture
                segments.append(Segment(kind="image") if part is None else Segment(part, answer))
            segments.append(Segment(supervised=True, kind="eos") if answer else Segment("\n"))
        if not turns or (reply and turns[-1].role != "user"):
            raise ConversationError("there is no question of the user to answer")
        return [*segments, Segment(f"{self.spec.assistant}:")] if reply else segments
