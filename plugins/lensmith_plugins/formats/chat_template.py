"""A Jinja chat template out of any conversation, by asking it: what stands before, between and after turns."""

from __future__ import annotations

import json

from lensmith import Conversation, Turn
from lensmith.data.encode import encode
from lensmith.interfaces.text import IMAGE_PLACEHOLDER, ConversationError, Tokenizer

_WORDS = tuple(f"q{letter}zx" for letter in "abcde")
"""Words that no template says."""

_BODY = """\
{{%- macro words(message) -%}}
{{%- if message['content'] is string -%}}{{{{- message['content'] -}}}}
{{%- else -%}}
{{%- for part in message['content'] if part['type'] == 'image' -%}}{{{{- {image} + '\\n' -}}}}{{%- endfor -%}}
{{%- for part in message['content'] if part['type'] == 'text' -%}}{{{{- part['text'] -}}}}{{%- endfor -%}}
{{%- endif -%}}
{{%- endmacro -%}}
{{{{- {begin} -}}}}
{{%- for message in messages -%}}
{{%- if message['role'] == 'user' -%}}
{{%- if not loop.first -%}}{{{{- {between} -}}}}{{%- endif -%}}
{{{{- words(message) -}}}}
{{%- elif message['role'] == 'assistant' -%}}
{{{{- {reply} -}}}}{{{{- words(message) -}}}}
{{%- if loop.last -%}}{{{{- {end} -}}}}{{%- endif -%}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- {open} -}}}}{{%- endif -%}}
"""


def derive(conversation: Conversation, tokenizer: Tokenizer, image_token: str) -> str | None:
    """The template, or None for a conversation that is no sequence of turns with fixed words around them.

    Pictures come first in their turn, each on a line of its own; the system's words are the conversation's.

    Args:
        conversation: bound to the tokenizer.
        tokenizer: says how its end token is written.
        image_token: the literal that stands for a picture.
    """
    questions = [Turn("user", (word,)) for word in _WORDS[::2]]
    answers = [Turn("assistant", (word,)) for word in _WORDS[1::2]]
    talk = [questions[0], answers[0], questions[1], answers[1], questions[2]]
    shown = [Turn("user", (None, f"\n{_WORDS[0]}"))]
    try:
        (before, after) = _around(_prompt(conversation, tokenizer, shown, reply=True), _WORDS[:1])
        long = _around(_prompt(conversation, tokenizer, talk, reply=True), _WORDS)
        short = _around(_prompt(conversation, tokenizer, talk[:1], reply=True), _WORDS[:1])
        closed = _around(_prompt(conversation, tokenizer, talk[:2], reply=False), _WORDS[:2])
    except (ConversationError, ValueError):
        return None
    begin, reply, between, again, once_more, open_ = long
    fixed = [begin, open_] == short and (reply, between) == (again, once_more) and closed[:2] == [begin, reply]
    if not fixed or (before, after) != (f"{begin}{IMAGE_PLACEHOLDER}\n", open_):
        return None
    pieces = {"begin": begin, "between": between, "reply": reply, "end": closed[2], "open": open_, "image": image_token}
    return _BODY.format(**{name: json.dumps(text, ensure_ascii=False) for name, text in pieces.items()})


def _prompt(conversation: Conversation, tokenizer: Tokenizer, turns: list[Turn], *, reply: bool) -> str:
    segments = conversation.render(turns, reply=reply)
    if any(segment.kind == "start" for segment in segments):
        raise ValueError("it writes the beginning of a text itself")
    return encode(segments, tokenizer).prompt


def _around(text: str, words: tuple[str, ...]) -> list[str]:
    """What stands around words, each of which occurs once, in order."""
    found = []
    for word in words:
        before, there, text = text.partition(word)
        if not there or word in text:
            raise ValueError("a word is missing, or there twice")
        found.append(before)
    return [*found, text]
