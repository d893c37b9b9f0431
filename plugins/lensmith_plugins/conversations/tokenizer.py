"""The chat template that came with a tokenizer, rendered to segments that know what is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from lensmith import ChatText, ConversationError, Segment, Tokenizer, Turn
from lensmith_plugins.conversations.hidden_text import HiddenText
from lensmith_plugins.conversations.script import Script, SystemConversation, check_turns, is_empty
from lensmith_plugins.conversations.specs import TokenizerSpec

_CURE = (
    "name another conversation (`chatml`, `llama_2`, …), or give a corrected template as the field `template`,"
    " answers between {% generation %} and {% endgeneration %}"
)


class _Span(NamedTuple):
    start: int
    end: int


class TokenizerConversation(SystemConversation):
    """What the tokenizer's own template writes; answers are learnt, with the special token that ends them.

    Where the template marks answers with `{% generation %}`, that is learnt. Else it is rendered message by message:
    an answer is what is added to the open question, up to the last special token. A template that writes an answer
    otherwise once the conversation goes on is refused. An answer without words and pictures is not learnt.

    Special tokens of the template are tokens, those that a user spells stay text. The template says where BOS stands.
    """

    def __init__(self, spec: TokenizerSpec, tokenizer: Tokenizer | None = None) -> None:
        self.spec = spec
        self._tokenizer = tokenizer

    def bind(self, tokenizer: Tokenizer) -> TokenizerConversation:
        """See `Conversation.bind`."""
        return type(self)(self.spec, tokenizer)

    def render(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Segment]:
        """See `Conversation.render`.

        Raises:
            ConversationError: the template refuses the messages, or what is learnt cannot be told; besides what is
                always refused.
        """
        check_turns(turns, reply=reply)
        hidden = HiddenText(self._bound().split_special)
        messages = [{"role": "system", "content": hidden.hide((self.spec.system,))}] if self.spec.system else []
        spoken = len(messages)
        messages += [{"role": turn.role, "content": hidden.hide(turn.parts)} for turn in turns]
        whole = self._chat(messages, reply=reply)
        if whole.answers is not None:
            spans = _marked(whole.answers, turns)
        else:
            answers = [spoken + n for n, turn in enumerate(turns) if turn.role == "assistant" and not is_empty(turn)]
            spans = [self._answer(messages, number, whole.text) for number in answers]
        return self._segments(whole.text, spans, hidden)

    def stop_strings(self) -> tuple[str, ...]:
        """The special token that the template puts behind an answer, where that is not the end token."""
        if self._tokenizer is None:
            return ()
        messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        try:
            text = self._chat(messages, reply=False).text
        except ConversationError:
            return ()
        behind = self._tokenizer.split_special(text[text.rfind("answer") :])
        token = next((token for _, token in behind if token is not None), None)
        return () if token in (None, self._tokenizer.eos_token) else (str(token),)

    def _bound(self) -> Tokenizer:
        if self._tokenizer is None:
            raise ConversationError("conversation `tokenizer` needs the tokenizer whose template it is; bind it first")
        return self._tokenizer

    def _chat(self, messages: Sequence[dict[str, str]], *, reply: bool) -> ChatText:
        return self._bound().chat(messages, reply=reply, template=self.spec.template, variables=self.spec.variables)

    def _answer(self, messages: Sequence[dict[str, str]], number: int, whole: str) -> _Span:
        """Where the answer that is message `number` stands in the rendered conversation."""
        asked = self._chat(messages[:number], reply=True).text
        answered = self._chat(messages[: number + 1], reply=False).text
        if not (answered.startswith(asked) and whole.startswith(asked)):
            raise self._rewritten(number, "after its open question")
        pieces = self._bound().split_special(answered[len(asked) :])
        if not whole.startswith(answered):
            # It may end otherwise where the conversation does: what both write, up to a special token, is the answer.
            going_on = self._bound().split_special(whole[len(asked) :])
            both = zip(pieces, going_on, strict=False)
            pieces = [ours for ours, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
            kept = "".join(text for text, _ in pieces)
            if messages[number]["content"].strip() not in kept or all(token is None for _, token in pieces):
                raise self._rewritten(number, "once the conversation goes on")
        place = end = len(asked)
        for text, token in pieces:
            place += len(text)
            if token is not None or text.strip():
                end = place
        return _Span(len(asked), end)

    def _rewritten(self, number: int, when: str) -> ConversationError:
        named = "of the field `template`" if self.spec.template is not None else "of the tokenizer"
        return ConversationError(
            f"the chat template {named} writes answer {number} otherwise {when}, so what is learnt would not be"
            f" what is asked for; {_CURE}"
        )

    def _segments(self, text: str, spans: Sequence[_Span], hidden: HiddenText) -> list[Segment]:
        learnt = [False] * len(text)
        for start, end in spans:
            learnt[start:end] = [True] * (end - start)
        script = Script(self.spec)
        script.segments = [Segment(kind="start")]
        place = 0
        for stretch, shown in hidden.reveal(text):
            if shown is None:
                for piece, token in self._bound().split_special(stretch):
                    if token is not None:
                        script.token(token, supervised=learnt[place])
                    else:
                        _write(script, piece, learnt[place : place + len(piece)])
                    place += len(piece)
                continue
            if shown.text is None:
                script.picture(supervised=learnt[place])
            else:
                script.text(shown.text, supervised=learnt[place])
            place += len(stretch)
        return script.segments


def _marked(answers: Sequence[tuple[int, int]], turns: Sequence[Turn]) -> list[_Span]:
    """The template's own marks, without those of empty answers."""
    said = [turn for turn in turns if turn.role == "assistant"]
    spans = [_Span(*answer) for answer in answers]
    if len(spans) != len(said):
        return spans
    return [span for span, turn in zip(spans, said, strict=True) if not is_empty(turn)]


def _write(script: Script, text: str, learnt: Sequence[bool]) -> None:
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or learnt[place] != learnt[start]:
            script.text(text[start:place], supervised=learnt[start])
            start = place
