"""Picture and caption (LLaVA, arXiv 2304.08485: pre-training for feature alignment)."""

from __future__ import annotations

from collections.abc import Sequence

from lensmith import Conversation, ConversationError, Segment, Turn
from lensmith_plugins.conversations.script import Script, check_turns
from lensmith_plugins.conversations.specs import PlainSpec


class PlainConversation(Conversation):
    """The user's pictures, then the assistant's words and a line break, all of them learnt.

    What the user says is dropped: a row of captions asks for each in other words.
    """

    def __init__(self, spec: PlainSpec) -> None:
        self.spec = spec

    def render(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Segment]:
        """See `Conversation.render`.

        Raises:
            ConversationError: not one question (and one answer), or a question without a picture.
        """
        check_turns(turns, reply=reply)
        expected = 1 if reply else 2
        if len(turns) != expected:
            raise ConversationError(
                f"`plain` takes one picture and one caption, not {len(turns)} turns;"
                " use `vicuna_v1` or another conversation for dialogues"
            )
        if not turns[0].images:
            raise ConversationError("`plain` describes a picture, but the user's turn shows none")
        script = Script()
        script.segments = [Segment(kind="image") for _ in range(turns[0].images)]
        if not reply:
            script.message(turns[1], supervised=True).text("\n", supervised=True)
        return script.segments

    def stop_strings(self) -> tuple[str, ...]:
        """The line break that ends a caption: it was learnt instead of the end token."""
        return ("\n",)
