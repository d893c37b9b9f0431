"""ChatML, the template of Qwen, SmolLM2 and many others."""

from __future__ import annotations

from collections.abc import Sequence

from lensmith import Segment, Turn
from lensmith_plugins.conversations.script import Script, SystemConversation, check_turns, is_empty
from lensmith_plugins.conversations.specs import ChatmlSpec

_START, _END = "<|im_start|>", "<|im_end|>"


class ChatmlConversation(SystemConversation):
    """`<|im_start|>role`, line break, message, `<|im_end|>`, line break; answers and their `<|im_end|>` are learnt.

    An answer without words and pictures is written but not learnt.
    """

    def __init__(self, spec: ChatmlSpec) -> None:
        self.spec = spec

    def render(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Segment]:
        """See `Conversation.render`."""
        check_turns(turns, reply=reply)
        script = Script(self.spec)
        if self.spec.system:
            script.token(_START).text(f"system\n{self.spec.system}").token(_END).text("\n")
        for turn in turns:
            learn = turn.role == "assistant" and not is_empty(turn)
            script.token(_START).text(f"{turn.role}\n")
            script.message(turn, supervised=learn).token(_END, supervised=learn).text("\n")
        if reply:
            script.token(_START).text("assistant\n")
        return script.segments

    def stop_strings(self) -> tuple[str, ...]:
        """`<|im_end|>`, which is not every model's end token."""
        return (_END,)
