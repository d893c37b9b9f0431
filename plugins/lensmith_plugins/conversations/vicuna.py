"""The template of Vicuna 1.1 and later, which LLaVA-1.5 keeps."""

from __future__ import annotations

from collections.abc import Sequence

from lensmith import Segment, Turn
from lensmith_plugins.conversations.script import Script, SystemConversation, check_turns, is_empty
from lensmith_plugins.conversations.specs import VicunaSpec


class VicunaConversation(SystemConversation):
    """`system USER: question ASSISTANT: answer</s>USER: …`; answers and their end tokens are learnt.

    The space before an answer belongs to it: the model is asked after `ASSISTANT:`. A message without words and
    pictures leaves its name alone behind, and there is nothing to learn in it.
    """

    def __init__(self, spec: VicunaSpec) -> None:
        self.spec = spec

    def render(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Segment]:
        """See `Conversation.render`."""
        check_turns(turns, reply=reply)
        script = Script(self.spec).text(f"{self.spec.system} " if self.spec.system else "")
        for turn in turns:
            if turn.role == "user":
                script.text("USER:")
                if not is_empty(turn):
                    script.text(" ").message(turn).text(" ")
            else:
                script.text("ASSISTANT:")
                if not is_empty(turn):
                    script.text(" ", supervised=True).message(turn, supervised=True).end()
        if reply:
            script.text("ASSISTANT:")
        return script.segments
