"""A tokenizer's chat template asked for text: the form of messages that it reads, its switches, its day."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lensmith import ChatText, ConversationError, Tokenizer
from lensmith_plugins.conversations.reasoning import without_block
from lensmith_plugins.conversations.specs import TokenizerSpec

SWITCHES = ("enable_thinking", "thinking")
"""What templates call the switch of reasoning: Qwen 3, SmolLM 3, GLM 4.5 and EXAONE 4; Granite and DeepSeek 3.1."""
TODAY = "strftime_now"
_KEYS = ("'type'", '"type"')
"""Of a part, where a template writes it whole for want of the text that it expects."""
_QUESTION, _ANSWER = "Which Pear is it?", "Quince it is."


class Style(NamedTuple):
    """How a template writes, by what it makes of one question and one answer.

    Args:
        content: whether it reads a message as one text or as a list of parts.
        thinks: whether it writes blocks of reasoning.
        opens_otherwise: whether an open question does not end as an answered one goes on.
        reads: names of the variables that it reads; None where that is not known.
    """

    content: Literal["text", "parts"] = "text"
    thinks: bool = False
    opens_otherwise: bool = False
    reads: frozenset[str] | None = None


class TemplateChat:
    """One template of one tokenizer.

    Args:
        spec: the conversation's.
        tokenizer: renders.
    """

    def __init__(self, spec: TokenizerSpec, tokenizer: Tokenizer) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self._style: Style | None = None

    @property
    def style(self) -> Style:
        """How the template writes; found once."""
        if self._style is None:
            self._style = Style()
            self._style = self._look()
        return self._style

    def text(self, messages: Sequence[Mapping[str, str]], *, reply: bool, reasons: bool = False) -> ChatText:
        """What the template makes of messages.

        Args:
            messages: with contents as text.
            reply: leave the last question open.
            reasons: whether the answer that is asked for begins with reasoning.

        Raises:
            ConversationError: the template refuses the messages.
        """
        return self._ask(messages, reply, reasons, self.style.content)

    def asked(self, messages: Sequence[Mapping[str, str]], *, reasons: bool) -> str:
        """The open question that an answer follows.

        Without reasoning it ends as an answered question goes on: behind an empty block where the template writes one
        before an answer, without the beginning of a block that no answer of that kind has.
        """
        text = self.text(messages, reply=True, reasons=reasons).text
        if self._switches(reasons)[SWITCHES[0]] or not self.style.opens_otherwise:
            return text
        answered = self.text([*messages, {"role": "assistant", "content": _ANSWER}], reply=False).text
        before, found, _ = answered.rpartition(_ANSWER)
        if not found:
            return text
        return before if without_block(before).rstrip() == without_block(text).rstrip() else text

    def _ask(
        self, messages: Sequence[Mapping[str, str]], reply: bool, reasons: bool, content: Literal["text", "parts"]
    ) -> ChatText:
        written = [
            {**m, "content": [{"type": "text", "text": m["content"]}] if content == "parts" else m["content"]}
            for m in messages
        ]
        return self.tokenizer.chat(
            written,
            reply=reply,
            template=self.spec.template,
            variables={**self.spec.variables, **self._switches(reasons)},
            date=datetime.date.fromisoformat(self.spec.date),
        )

    def _switches(self, reasons: bool) -> dict[str, Any]:
        """Of reasoning: on for an answer that has some, else as the spec says."""
        given = {name: self.spec.variables[name] for name in SWITCHES if name in self.spec.variables}
        wanted = reasons or self.spec.reasoning or any(map(bool, given.values()))
        return {**dict.fromkeys(SWITCHES, wanted), **({} if reasons else given)}

    def _look(self) -> Style:
        question = {"role": "user", "content": _QUESTION}
        content, first = self._content(question)
        if first is None:
            return Style()
        try:
            answered = self._ask([question, {"role": "assistant", "content": _ANSWER}], False, False, content).text
            asked = self._ask([question], True, False, content).text
            reasoned = self._ask([question], True, True, content).text
        except ConversationError:
            return Style(content, reads=first.reads)
        before = answered.rpartition(_ANSWER)[0]
        thinks = any(without_block(text) != text for text in (asked, reasoned, before))
        return Style(content, thinks, not answered.startswith(asked) or without_block(before) != before, first.reads)

    def _content(self, question: Mapping[str, str]) -> tuple[Literal["text", "parts"], ChatText | None]:
        """The form of content whose words come out, and what came out; text where neither does."""
        found: ChatText | None = None
        forms: tuple[Literal["text", "parts"], ...] = ("text", "parts")
        for form in forms:
            try:
                made = self._ask([question], True, False, form)
            except ConversationError:
                continue
            # Not as it stands: a template that changes its case still reads it.
            if _QUESTION.lower() in made.text.lower() and not any(key in made.text for key in _KEYS):
                return form, made
            found = found or made
        return "text", found
