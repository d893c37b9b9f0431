"""The template of LLaMA-2-chat and, without a system text, of Mistral's instructed models."""

from __future__ import annotations

from collections.abc import Sequence

from lensmith import ConversationError, Segment, Turn
from lensmith_plugins.conversations.script import Script, SystemConversation, check_turns, is_empty
from lensmith_plugins.conversations.specs import Llama2Spec


class Llama2Conversation(SystemConversation):
    """`[INST] question [/INST] answer </s><s>[INST] …`; answers with the spaces around them and `</s>` are learnt.

    The system text stands in the first question, between `<<SYS>>` and `<</SYS>>`. A later message without words and
    pictures is left out altogether.
    """

    def __init__(self, spec: Llama2Spec) -> None:
        self.spec = spec

    def render(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Segment]:
        """See `Conversation.render`.

        Raises:
            ConversationError: the first question is empty, besides what is always refused.
        """
        check_turns(turns, reply=reply)
        if is_empty(turns[0]):
            raise ConversationError("the first question is empty, which `[INST] … [/INST]` cannot express")
        system = f"<<SYS>>\n{self.spec.system}\n<</SYS>>\n\n" if self.spec.system else ""
        script = Script(self.spec)
        for number, turn in enumerate(turns):
            if is_empty(turn):
                continue
            if turn.role == "assistant":
                script.text(" ", supervised=True).message(turn, supervised=True).text(" ", supervised=True).end()
                continue
            if number and self.spec.row_start:
                script.token(self.spec.row_start)
            script.text("[INST] " + (system if number == 0 else "")).message(turn).text(" [/INST]")
        return script.segments
