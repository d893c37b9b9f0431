"""What a reader takes a reply for, where a benchmark's own rule is strict: the readings of `reading=lenient`."""

from __future__ import annotations

import re
from collections.abc import Mapping

_EDGES = " \t\r\n.,:;!?*_`'\"“”‘’()[]{}<>|#-"
_SAID = re.compile(r"(?:answer|option|choice)\s*(?:is|are|would be|:|=)?\s*[*_`'\"(\[{]*([A-Z])\b", re.IGNORECASE)
_LEADING = re.compile(r"[\W_]*([A-Za-z])\s*[.):\]}]")
_ALONE = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")
_WORDS = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_UNDECIDED = re.compile(
    r"\b(?:not (?:sure|certain|clear|possible|enough)|unsure|uncertain|cannot|can't|can’t|unable)\b"
)
_NEGATIONS = {"not", "isn't", "aren't", "doesn't", "don't", "wasn't", "isn’t", "aren’t", "doesn’t", "don’t"}


def letter_of(reply: str, options: Mapping[str, str]) -> str:
    """The option that a reply names, by its letter or by its text; empty where it names none or several.

    Args:
        reply: what the model said: `B`, `b`, `(B)`, `B. a dog`, `The answer is B`, `**B**`, `a dog`.
        options: texts by letter; a text may be empty where it is not known.
    """
    bare = reply.strip(_EDGES)
    if len(bare) == 1:
        return bare.upper() if bare.upper() in options else ""
    for pattern in (_LEADING.match, _SAID.search):
        if (match := pattern(reply)) and match.group(1).upper() in options:
            told, rest = str(match.group(1)), reply[match.end() :].strip(_EDGES)
            if told != "a" or pattern == _LEADING.match or not rest:  # not the article: "the answer is a dog"
                return told.upper()
    texts = [letter for letter, text in options.items() if text and _same(text, bare)]
    if len(texts) == 1:
        return texts[0]
    alone = {str(letter) for letter in _ALONE.findall(reply) if letter in options}
    if len(alone) > 1:
        return ""
    if alone and not (alone == {"A"} and bare.startswith("A ")):  # an article
        return alone.pop()
    within = [letter for letter, text in options.items() if text and _contains(reply, text)]
    return within[0] if len(within) == 1 else ""


def yes_or_no(reply: str) -> str:
    """`yes` or `no`, whichever a reply begins with or is the only one that it says; empty where it says neither."""
    found = [str(word).lower() for word in _WORDS.findall(reply)]
    if not found:
        return ""
    if found[0] in ("yes", "no") and found[1:2] not in (["or"], ["and"]):
        return found[0]
    if found in (["y"], ["n"]):
        return "yes" if found[0] == "y" else "no"
    said = {word for word in found if word in ("yes", "no")}
    if len(said) == 1:
        return said.pop()
    if said or _UNDECIDED.search(reply.lower()):
        return ""
    return "no" if _NEGATIONS.intersection(found) else ""


def _same(text: str, reply: str) -> bool:
    return text.strip(_EDGES).lower() == reply.lower()


def _contains(reply: str, text: str) -> bool:
    told = text.strip(_EDGES).lower()
    return bool(told) and re.search(rf"(?<!\w){re.escape(told)}(?!\w)", reply.lower()) is not None
