"""A Jinja chat template out of any conversation, by asking it: what stands before, between and after turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from lensmith import Conversation, Turn
from lensmith.interfaces.text import IMAGE_PLACEHOLDER, ConversationError, Tokenizer

_WORDS = tuple(f"q{letter}zx" for letter in "abcdef")
"""Words that no template says."""
_SYSTEM = "qszx"

_TEMPLATE = """\
{%- macro text_of(text) -%}
{%- for token in @specials@ if token in text -%}
{{- raise_exception('a message holds ' + token + ', which this tokenizer would take for a token; leave it out') -}}
{%- endfor -%}
{{- text -}}
{%- endmacro -%}
{%- macro words(message) -%}
{%- if message['content'] is string -%}{{- text_of(message['content']) -}}
{%- else -%}
{%- set written = namespace(last=none) -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{%- set piece = text_of(part['text']) -%}
{%- elif part['type'] in ('image', 'image_url') and message['role'] == 'user' -%}{%- set piece = @image@ -%}
{%- else -%}{{- raise_exception('a ' + message['role'] + ' message holds a part of type ' + part['type']) -}}
{%- endif -%}
{%- if piece -%}
{%- if written.last is not none and not piece.startswith('\\n') and not written.last.endswith('\\n') -%}
{{- '\\n' -}}
{%- endif -%}
{{- piece -}}{%- set written.last = piece -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set talk = namespace(system=none, turns=[]) -%}
{%- for message in messages -%}
{%- if message['tool_calls'] or message['role'] not in ('system', 'developer', 'user', 'assistant') -%}
{{- raise_exception('this model was trained on messages of system, user and assistant alone') -}}
{%- elif message['role'] in ('system', 'developer') -%}
{%- if talk.turns -%}{{- raise_exception('a system message stands first') -}}{%- endif -%}
@system@
{%- else -%}
{%- if (message['role'] == 'user') != (talk.turns | length % 2 == 0) -%}
{{- raise_exception('messages of user and assistant alternate, and the user begins') -}}
{%- endif -%}
{%- if not words(message) -%}{{- raise_exception('a message is empty') -}}{%- endif -%}
{%- set talk.turns = talk.turns + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- if not talk.turns -%}{{- raise_exception('there is no message of the user') -}}{%- endif -%}
{%- if tools -%}{{- raise_exception('this model was trained without tools') -}}{%- endif -%}
{%- if add_generation_prompt and talk.turns[-1]['role'] == 'assistant' -%}
{{- raise_exception('a reply needs a question of the user, last') -}}
{%- endif -%}
@begin@
{%- for message in talk.turns -%}
{%- if message['role'] == 'user' -%}
{%- if not loop.first -%}{{- @between@ -}}{%- endif -%}
{{- words(message)@trim_user@ -}}
{%- else -%}
{{- @last@ if loop.last else @reply@ -}}
{%- generation -%}
{{- @lead@ -}}{{- words(message)@trim_answer@ -}}{{- @end@ -}}
{%- endgeneration -%}
{%- if loop.last -%}{{- @close@ -}}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- @open@ -}}{%- endif -%}
"""


@dataclass(frozen=True)
class Words:
    """What a conversation writes around messages.

    Args:
        begin: before the first question, with the conversation's own system text.
        system: the same around another one, and without any; None where it has no place for one.
        image: what stands for a picture.
        reply, last: before an answer, and before one that ends the conversation; not learnt.
        lead, end: around an answer, learnt.
        between: behind an answer, before the next question.
        close: behind an answer that ends the conversation.
        open: behind a question that is to be answered.
        trim_user, trim_answer: whether space around messages is cut off.
        bos: how the template begins where the conversation leaves that to the tokenizer, for each try.
    """

    begin: str
    system: tuple[str, str, str] | None
    image: str
    reply: str
    last: str
    lead: str
    end: str
    between: str
    close: str
    open: str
    trim_user: bool
    trim_answer: bool
    bos: tuple[str, ...] = field(default=("",))


def derive(conversation: Conversation, tokenizer: Tokenizer) -> Words | None:
    """What a conversation writes, None for one that is no sequence of turns with fixed words around them.

    Args:
        conversation: bound to the tokenizer.
        tokenizer: says how its end token is written.
    """
    try:
        return _derive(_Asked(conversation, tokenizer))
    except (ConversationError, ValueError):
        return None


def template(words: Words, image_token: str, specials: Sequence[str], bos: str = "") -> str:
    """The Jinja text.

    What the conversation was not trained with is refused by the template: tools, other roles, messages that do not
    alternate, pictures of an assistant, empty messages, and special tokens that a message spells (they would become
    tokens, which Lensmith does not let them).

    Args:
        words: what stands around messages.
        image_token: the literal of a picture.
        specials: literals that a text may not hold.
        bos: what the text begins with; the expression `bos_token` stands for that.
    """
    begin = "{{- bos_token -}}" + ("{{- ' ' -}}" if bos.endswith(" ") else "") if bos else ""
    if words.system is None:
        system = "{{- raise_exception('this model has no place for a system message') -}}"
        begin += "{{- @begin_own@ -}}"
    else:
        system = (
            "{%- set told = words(message) -%}"
            "{%- set talk.system = told if talk.system is none else talk.system + '\\n' + told -%}"
        )
        begin += (
            "{%- if talk.system is none -%}{{- @begin_own@ -}}{%- elif talk.system -%}"
            "{{- @before_system@ -}}{{- talk.system@trim_system@ -}}{{- @behind_system@ -}}"
            "{%- else -%}{{- @begin_none@ -}}{%- endif -%}"
        )
    before, behind, none = words.system or ("", "", "")
    trim = " | trim"
    text = _TEMPLATE.replace("@system@", system).replace("@begin@", begin)
    pieces = {
        "begin_own": words.begin,
        "before_system": before,
        "behind_system": behind,
        "begin_none": none,
        "image": words.image.replace(IMAGE_PLACEHOLDER, image_token),
        "reply": words.reply,
        "last": words.last,
        "lead": words.lead,
        "end": words.end,
        "between": words.between,
        "close": words.close,
        "open": words.open,
    }
    for name, piece in pieces.items():
        text = text.replace(f"@{name}@", json.dumps(piece, ensure_ascii=False))
    text = text.replace("@trim_user@", trim if words.trim_user else "")
    text = text.replace("@trim_answer@", trim if words.trim_answer else "").replace("@trim_system@", "")
    return text.replace("@specials@", json.dumps(sorted(specials), ensure_ascii=False))


class _Asked:
    """A conversation asked for text, with what is learnt of it."""

    def __init__(self, conversation: Conversation, tokenizer: Tokenizer) -> None:
        self.conversation, self.tokenizer = conversation, tokenizer
        self.begins_itself = False

    def around(self, turns: Sequence[Turn], words: Sequence[str], *, reply: bool) -> list[str]:
        """What stands around words, each of which occurs once, in order; the border of what is learnt is a `\\0`."""
        text, learnt = "", False
        for segment in self.conversation.render(turns, reply=reply):
            if segment.kind == "start":
                self.begins_itself = True
                continue
            if segment.supervised != learnt:
                text, learnt = text + "\0", segment.supervised
            if segment.kind == "token" and self.tokenizer.token_id(segment.text) is None:
                raise ConversationError(f"the tokenizer has no token {segment.text!r}")
            spoken = {"image": IMAGE_PLACEHOLDER, "eos": self.tokenizer.eos_token}.get(segment.kind, segment.text)
            text += spoken
        text += "\0" if learnt else ""
        found = []
        for word in words:
            before, there, text = text.partition(word)
            if not there or word in text:
                raise ValueError("a word is missing, or there twice")
            found.append(before)
        return [*found, text]

    def with_system(self, text: str) -> _Asked:
        return _Asked(self.conversation.with_system(text), self.tokenizer)


def _derive(asked: _Asked) -> Words:
    question = _WORDS[0]
    talk = [Turn("assistant" if n % 2 else "user", (word,)) for n, word in enumerate(_WORDS)]
    begin, reply, between, again, once_more, open_ = asked.around(talk[:5], _WORDS[:5], reply=True)
    first, reply_1, between_1, last, closing = asked.around(talk[:4], _WORDS[:4], reply=False)
    alone, last_alone, closing_alone = asked.around(talk[:2], _WORDS[:2], reply=False)
    short = asked.around(talk[:1], _WORDS[:1], reply=True)
    header, _, lead = last.partition("\0")
    end, mark, close = closing.partition("\0")
    history, _, history_lead = reply_1.partition("\0")
    history_end, history_mark, following = between_1.partition("\0")
    same = [
        begin == first == alone == short[0],
        short[1] == open_.replace("\0", ""),
        last == last_alone,
        closing == closing_alone,
        (reply.replace("\0", ""), between.replace("\0", "")) == (again.replace("\0", ""), once_more.replace("\0", "")),
        reply.replace("\0", "") == history + history_lead,
        between.replace("\0", "") == history_end + following,
        (history_lead, history_end) == (lead, end),
        bool(mark) and bool(history_mark),
        not any("\0" in piece for piece in (begin, header, close, following)),
    ]
    if not all(same):
        raise ValueError("the words around turns change with them")
    image = asked.around([Turn("user", (None,))], (), reply=True)[0]
    image = image.removeprefix(begin).removesuffix(short[1])
    if begin + image + short[1] != asked.around([Turn("user", (None,))], (), reply=True)[0]:
        raise ValueError("a picture alone is written otherwise")
    shown = asked.around([Turn("user", (None, f"\n{question}"))], (question,), reply=True)
    if shown != [f"{begin}{image}\n", short[1]] or image.count(IMAGE_PLACEHOLDER) != 1:
        raise ValueError("a picture is written otherwise")
    bos: tuple[str, ...] = ("",)
    if not asked.begins_itself and asked.tokenizer.bos_id is not None:
        bos = ("bos", "bos ")
    return Words(
        begin=begin,
        system=_system(asked, short[1]),
        image=image,
        reply=history,
        last=header,
        lead=lead,
        end=end,
        between=following,
        close=close,
        open=short[1],
        trim_user=_trims(asked, talk, 0),
        trim_answer=_trims(asked, talk, 1),
        bos=bos,
    )


def _system(asked: _Asked, open_: str) -> tuple[str, str, str] | None:
    """What stands before and behind another system text, and before the first question without any."""
    question = [Turn("user", (_WORDS[0],))]
    later = [*question, Turn("assistant", (_WORDS[1],)), Turn("user", (_WORDS[2],))]
    try:
        # Also with a second question, before which some write it instead.
        asked.with_system(_SYSTEM).around(later, (_SYSTEM, *_WORDS[:3]), reply=True)
        before, behind, end = asked.with_system(_SYSTEM).around(question, (_SYSTEM, _WORDS[0]), reply=True)
        none = asked.with_system("").around(question, _WORDS[:1], reply=True)
    except (ConversationError, ValueError):
        return None
    return (before, behind, none[0]) if end == none[1] == open_ else None


def _trims(asked: _Asked, talk: Sequence[Turn], place: int) -> bool:
    """Whether space around a message is cut off; no other change of it can be written.

    Raises:
        ValueError: another change.
    """
    word = _WORDS[place]
    spaced = [Turn(t.role, (f" \n{word} \n",)) if n == place else t for n, t in enumerate(talk[:2])]
    plain, made = (
        [piece.replace("\0", "") for piece in asked.around(turns, _WORDS[:2], reply=False)]
        for turns in (talk[:2], spaced)
    )
    if made == plain:
        return True
    expected = list(plain)
    expected[place] += " \n"
    expected[place + 1] = " \n" + expected[place + 1]
    if made != expected:
        raise ValueError("space around a message is changed")
    return False
