"""The chat template that came with a tokenizer, rendered to segments that know what is learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from lensmith import ChatText, ConversationError, Segment, Tokenizer, Turn
from lensmith_plugins.conversations.hidden_text import HiddenText
from lensmith_plugins.conversations.kept_words import Place, places
from lensmith_plugins.conversations.reasoning import empty_block, reasons, without_block, without_empty
from lensmith_plugins.conversations.script import Script, SystemConversation, check_turns, is_empty
from lensmith_plugins.conversations.specs import FIXED_DAY, TokenizerSpec
from lensmith_plugins.conversations.template_chat import SWITCHES, TODAY, TemplateChat

_CURE = (
    "name another conversation (`chatml`, `llama_2`, …), or give a corrected template as the field `template`,"
    " answers between {% generation %} and {% endgeneration %}"
)


class _Span(NamedTuple):
    start: int
    end: int


class _Talk(NamedTuple):
    """What is rendered: messages with hidden words, and whether their answers begin with reasoning."""

    messages: list[dict[str, str]]
    hidden: HiddenText
    reasons: bool


class TokenizerConversation(SystemConversation):
    """What the tokenizer's own template writes; answers are learnt, with the special token that ends them.

    Where the template marks answers with `{% generation %}`, that is learnt. Else it is rendered message by message:
    an answer is what is added to the open question, up to the last special token. A template that writes an answer
    otherwise once the conversation goes on is refused, but for reasoning: an empty block of it belongs to the
    question, and earlier answers stand without one where the template writes them so. An answer without words and
    pictures is not learnt.

    Every word of the turns must come out as it is, and every answer must end in a special token or a text of `stop`.
    Special tokens of the template are tokens, those that a user spells stay text. The template says where BOS stands.
    """

    def __init__(self, spec: TokenizerSpec, tokenizer: Tokenizer | None = None) -> None:
        self.spec = spec
        self._tokenizer = tokenizer
        self._chats: TemplateChat | None = None if tokenizer is None else TemplateChat(spec, tokenizer)

    def bind(self, tokenizer: Tokenizer) -> TokenizerConversation:
        """See `Conversation.bind`."""
        return type(self)(self.spec, tokenizer)

    def render(self, turns: Sequence[Turn], *, reply: bool = False) -> list[Segment]:
        """See `Conversation.render`.

        Raises:
            ConversationError: the template refuses the messages, drops or changes their words, ends no answer, or what
                is learnt cannot be told; besides what is always refused.
        """
        check_turns(turns, reply=reply)
        talk = self._talk(turns)
        if reply:
            text, spans = self._chat.asked(talk.messages, reasons=False), []
            self._places(talk, text, past=True)
        else:
            whole = self._chat.text(talk.messages, reply=False, reasons=talk.reasons)
            text, spans = whole.text, list(self._spans(talk, whole, turns))
        return self._segments(text, spans, talk.hidden)

    def problems(self, tokenizer: Tokenizer) -> list[str]:
        """See `Conversation.problems`: words of common messages, of one round and of two, and fields without effect."""
        bound = self.bind(tokenizer)
        try:
            bound.render(_PROBES[:1], reply=True)
            bound.render(_PROBES[:2])
        except ConversationError as error:
            return [str(error)]
        found = list(bound._without_effect())
        try:
            bound.render(_PROBES[:3], reply=True)
            bound.render(_PROBES)
        except ConversationError as error:
            if "cannot express" not in str(error):  # one round may be all that a template is for
                found.append(f"in a conversation of two rounds {error}")
        return found

    def stop_strings(self) -> tuple[str, ...]:
        """The special token that the template puts behind an answer, where that is not the end token, and `stop`."""
        if self._tokenizer is None:
            return tuple(self.spec.stop)
        messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        try:
            text = self._chat.text(messages, reply=False).text
        except ConversationError:
            return tuple(self.spec.stop)
        behind = self._tokenizer.split_special(text[text.rfind("answer") :])
        token = next((token for _, token in behind if token is not None), None)
        return (*(() if token in (None, self._tokenizer.eos_token) else (str(token),)), *self.spec.stop)

    @property
    def _chat(self) -> TemplateChat:
        self._bound()
        assert self._chats is not None
        if self._chats.spec is not self.spec:  # with another system text: the template's style is what it was
            chats = TemplateChat(self.spec, self._chats.tokenizer)
            chats._style = self._chats.style
            self._chats = chats
        return self._chats

    def _bound(self) -> Tokenizer:
        if self._tokenizer is None:
            raise ConversationError("conversation `tokenizer` needs the tokenizer whose template it is; bind it first")
        return self._tokenizer

    def _origin(self) -> str:
        return "of the field `template`" if self.spec.template is not None else "of the tokenizer"

    def _talk(self, turns: Sequence[Turn]) -> _Talk:
        hidden = HiddenText(self._bound().split_special)
        messages = [{"role": "system", "content": hidden.hide((self.spec.system,))}] if self.spec.system else []
        thought = False
        for turn in turns:
            parts = turn.parts
            if turn.role == "assistant" and self._chat.style.thinks and parts and parts[0] is not None:
                # An empty block says nothing; the template writes its own.
                parts = (parts[0][empty_block(parts[0]) :], *parts[1:])
                thought = thought or reasons(parts[0] or "")
            messages.append({"role": turn.role, "content": hidden.hide(parts)})
        return _Talk(messages, hidden, thought)

    def _places(self, talk: _Talk, text: str, *, past: bool = False) -> list[Place]:
        thinks = self._chat.style.thinks
        return places(talk.messages, text, talk.hidden, thinks=thinks, origin=self._origin(), past=past)

    def _spans(self, talk: _Talk, whole: ChatText, turns: Sequence[Turn]) -> Iterator[_Span]:
        """What is learnt: each answer that says something, with its end."""
        stands = self._places(talk, whole.text)
        first = len(talk.messages) - len(turns)
        said = [first + n for n, turn in enumerate(turns) if turn.role == "assistant" and not is_empty(turn)]
        marked = None if whole.answers is None else self._marked(whole, [stands[n] for n in said])
        for place, number in enumerate(said):
            span = self._answer(talk, number, whole.text) if marked is None else marked[place]
            lead = whole.text[span.start : stands[number].start]
            # An empty block that the row does not have belongs to the question.
            start = span.start if without_empty(lead) == lead else stands[number].start
            ended = self._ends(whole.text, stands[number].end, span.end)
            yield _Span(start, span.end if ended else self._stopped(whole.text, span.end, number - first))

    def _marked(self, whole: ChatText, answers: Sequence[Place]) -> list[_Span]:
        """The template's own mark of each answer.

        Raises:
            ConversationError: an answer that is not marked, or a mark around other words.
        """
        spans = [_Span(*span) for span in whole.answers or ()]
        found = []
        for place in answers:
            around = [span for span in spans if span.start <= place.start and place.end <= span.end]
            if not around:
                words = whole.text[place.start : place.end][:40]
                raise ConversationError(
                    f"the chat template {self._origin()} marks answers with {{% generation %}} and leaves out"
                    f" {words!r}; mark every answer whole, with the token that ends it"
                )
            found.append(around[-1])
        return found

    def _ends(self, text: str, words: int, end: int) -> bool:
        """Whether what is learnt goes on, behind the words of an answer, with a special token or a text of `stop`."""
        behind = self._bound().split_special(text[words:end])
        stops = any(text[words:end].find(stop) >= 0 for stop in self.spec.stop)
        return stops or any(token is not None for _, token in behind)

    def _stopped(self, text: str, end: int, number: int) -> int:
        """The end of an answer that a text of `stop` ends behind what the template adds to it.

        Raises:
            ConversationError: nothing ends it.
        """
        for stop in self.spec.stop:
            if text.startswith(stop, end):
                return end + len(stop)
        asked = f"none of `stop` ({', '.join(map(repr, self.spec.stop))})" if self.spec.stop else "no special token"
        raise ConversationError(
            f"the chat template {self._origin()} writes {asked} behind answer {number}, or does not learn it, so the"
            " model would never learn to stop; give a corrected template as the field `template` that ends answers with"
            " `{{ eos_token }}`, name a text that ends them as the field `stop`, or name another conversation"
        )

    def _answer(self, talk: _Talk, number: int, whole: str) -> _Span:
        """Where the answer that is message `number` stands in the rendered conversation."""
        messages = talk.messages
        own = talk.reasons and reasons(messages[number]["content"])
        asked = self._chat.asked(messages[:number], reasons=own)
        answered = whole
        if number + 1 < len(messages):
            answered = self._chat.text(messages[: number + 1], reply=False, reasons=own).text
        begins, goes_on = _behind(answered, asked), _behind(whole, asked)
        if begins is None or goes_on is None:
            raise self._rewritten(number, "after its open question")
        pieces = self._bound().split_special(answered[begins:])
        if not whole.startswith(answered[begins:], goes_on):
            # It may end otherwise where the conversation does: what both write, up to a special token, is the answer.
            longer = self._bound().split_special(whole[goes_on:])
            both = zip(pieces, longer, strict=False)
            pieces = [ours for ours, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
            kept = "".join(text for text, _ in pieces)
            if messages[number]["content"].strip() not in kept or all(token is None for _, token in pieces):
                raise self._rewritten(number, "once the conversation goes on")
        place = end = goes_on
        for text, token in pieces:
            place += len(text)
            if token is not None or text.strip():
                end = place
        return _Span(goes_on, end)

    def _rewritten(self, number: int, when: str) -> ConversationError:
        return ConversationError(
            f"the chat template {self._origin()} writes answer {number} otherwise {when}, so what is learnt would not"
            f" be what is asked for; {_CURE}"
        )

    def _without_effect(self) -> Iterator[str]:
        """Fields that are given and that the template does not read."""
        reads = self._chat.style.reads
        if reads is None:
            return
        for name in sorted(self.spec.variables.keys() - reads):
            others = ", ".join(sorted(reads - {"messages", "add_generation_prompt", TODAY})) or "none"
            yield f"the chat template {self._origin()} reads no variable {name!r} of `variables`; it reads {others}"
        if self.spec.date != FIXED_DAY and TODAY not in reads:
            yield f"the chat template {self._origin()} writes no day, so `date` would do nothing; leave it out"
        if self.spec.reasoning and not reads & {*SWITCHES} and not self._chat.style.thinks:
            yield f"the chat template {self._origin()} has no switch for reasoning; leave `reasoning` out"

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


_PROBES = (
    Turn(
        "user", (None, "\nWhat COLOUR is the Bus (of 1950)?\nLook twice; then say why, in so many words." + " Öl." * 60)
    ),
    Turn("assistant", ('It IS red.\n\n- for One, "Paint"\n- for two,\ttime' + " and Rust" * 40 + ".",)),
    Turn("user", ("And the Other\n one?",)),
    Turn("assistant", ("No, Blue.",)),
)
"""Messages as rows have them: long and short, of several lines, in both cases, with a picture."""


def _behind(text: str, asked: str) -> int | None:
    """Where a text goes on behind an open question, which may have an empty block that the text has not."""
    for prompt in (asked, without_block(asked)):
        if text.startswith(prompt):
            return len(prompt)
    return None


def _write(script: Script, text: str, learnt: Sequence[bool]) -> None:
    start = 0
    for place in range(1, len(text) + 1):
        if place == len(text) or learnt[place] != learnt[start]:
            script.text(text[start:place], supervised=learnt[start])
            start = place
