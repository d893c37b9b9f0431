"""From a reply to the letter of an option, as VLMEvalKit has it for MMBench."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MARKS = ".()[],:;!*#{}"
_NO_MATCH = {"2023-11": "E"}
"""The letter that says that no option is meant, where it is not Z."""
_REFUSALS = ("Sorry, I can't help with images of people yet.", "I can't process this file.")
_LATER_REFUSALS = ("I'm sorry, but without the image provided", "Cannot determine the answer")
_NO_REPLY = "Failed to obtain answer via API"
_NEAR_END = 4
_SENTENCE = re.compile(r"answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)


def letter_of(reply: str, options: Mapping[str, str], revision: str = "2024-01") -> str:
    """The letter that a reply means; empty where the rules find none.

    Args:
        reply: what the model said.
        options: texts by letter.
        revision: `2024-01` (letters of the question, then the option's text; `Z` is no match), `2023-11` (any of A to
            E, where E is no match) or `2026-08` (the letter among the last four words, or after `answer is`; no text
            of options in a long reply).
    """
    return by_letter(reply, options, revision) or by_text(reply, options, revision)


def by_letter(reply: str, options: Mapping[str, str], revision: str) -> str:
    """The only letter that stands alone in a reply, or the letter of no match for a refusal."""
    if _NO_REPLY in reply:
        return ""
    refusals = _REFUSALS + (_LATER_REFUSALS if revision == "2026-08" else ())
    if any(refusal in reply for refusal in refusals):
        return _NO_MATCH.get(revision, "Z")
    cleaned = reply
    for mark in _MARKS:
        cleaned = cleaned.replace(mark, " ")
    words = cleaned.split()
    letters = "ABCDE" if revision == "2023-11" else "".join(options)
    found = [letter for letter in letters if letter in words]
    if len(found) == 1:
        if revision != "2026-08" or words.index(found[0]) >= len(words) - _NEAR_END:
            return found[0]
    elif not found and revision != "2023-11" and "Z" in words:
        return "Z"
    if revision == "2026-08" and (match := _SENTENCE.search(reply)) and match.group(1).upper() in options:
        return match.group(1).upper()
    return ""


def by_text(reply: str, options: Mapping[str, str], revision: str) -> str:
    """The only option whose text a reply contains, in any case."""
    lower = reply.lower()
    if revision == "2026-08" and len(lower) > 2 * sum(map(len, options.values())):
        return ""
    found = [letter for letter, text in options.items() if text.lower() in lower]
    return found[0] if len(found) == 1 else ""
