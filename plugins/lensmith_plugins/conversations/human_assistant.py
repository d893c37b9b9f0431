"""`Human:` and `Assistant:` between `###`: the first templates of Vicuna and LLaVA (arXiv 2304.08485)."""

from __future__ import annotations

from collections.abc import Sequence

from lensmith import ConversationError, Segment, Tokenizer, Turn
from lensmith_plugins.conversations.original_labels import relabel
from lensmith_plugins.conversations.script import Script, SystemConversation, check_turns, is_empty
from lensmith_plugins.conversations.specs import HumanAssistantSpec, V0Spec
from lensmith_plugins.conversations.texts import SEED_ANSWER, SEED_QUESTION

_MARK = "###"
_NAMES = {"user": "Human", "assistant": "Assistant"}
_SEED = (Turn("user", (SEED_QUESTION,)), Turn("assistant", (SEED_ANSWER,)))


class HumanAssistantConversation(SystemConversation):
    """In lines `### Human: question`, or compact `###Human: question###`; answers with the `###` after them are learnt.

    An answer without words and pictures is not learnt; compact, its name alone is left behind.
    """

    def __init__(self, spec: HumanAssistantSpec, tokenizer: Tokenizer | None = None) -> None:
        self.spec = spec
        self._tokenizer = tokenizer

    def bind(self, tokenizer: Tokenizer) -> HumanAssistantConversation:
        """See `Conversation.bind`; `labels: original` counts its ids."""
        return type(self)(self.spec, tokenizer)

    def render(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Segment]:
        """See `Conversation.render`."""
        check_turns(turns, reply=reply)
        if self.spec.form == "lines" or (self.spec.form == "original" and not reply):
            return self._lines(turns, reply)
        return self._compact(turns, reply)

    def stop_strings(self) -> tuple[str, ...]:
        """`###`, which was learnt instead of the end token."""
        return (_MARK,)

    def _seed(self) -> tuple[Turn, ...]:
        return _SEED if isinstance(self.spec, V0Spec) and self.spec.seed else ()

    def _compact(self, turns: Sequence[Turn], reply: bool) -> list[Segment]:
        seed = self._seed()
        script = Script(self.spec).text(self.spec.system + _MARK if self.spec.system else "")
        for number, turn in enumerate((*seed, *turns)):
            learn = turn.role == "assistant" and number >= len(seed)
            script.text(f"{_NAMES[turn.role]}:")
            if not is_empty(turn):
                script.text(" ", supervised=learn).message(turn, supervised=learn).text(_MARK, supervised=learn)
        if reply:
            script.text("Assistant:")
        return script.segments

    def _lines(self, turns: Sequence[Turn], reply: bool) -> list[Segment]:
        if self.spec.labels == "original" and not reply:
            return self._drifting(turns)
        seed = self._seed() if self.spec.form == "lines" else ()
        script = Script(self.spec).text(f"{self.spec.system}\n\n" if self.spec.system else "").text(_MARK)
        for number, turn in enumerate((*seed, *turns)):
            learn = turn.role == "assistant" and number >= len(seed) and not is_empty(turn)
            script.text(f" {_NAMES[turn.role]}:").text(" ", supervised=learn)
            script.message(turn, supervised=learn).text(f"\n{_MARK}", supervised=learn)
        return script.text(" Assistant:" if reply else " ").segments

    def _drifting(self, turns: Sequence[Turn]) -> list[Segment]:
        if self._tokenizer is None:
            raise ConversationError("`labels: original` counts ids; bind the conversation to a tokenizer first")
        header = Script(self.spec).text(f"{self.spec.system}\n\n" if self.spec.system else "").segments
        seed = self._seed() if self.spec.form == "lines" else ()
        blocks = [
            (turn.role, Script(self.spec).text(f"{_MARK} {_NAMES[turn.role]}: ").message(turn).text("\n").segments)
            for turn in (*seed, *turns)
        ]
        return relabel(header, blocks, [Segment(f"{_MARK} ")], self._tokenizer)
