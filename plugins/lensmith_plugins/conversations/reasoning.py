"""Blocks of reasoning before an answer (`<think> … </think>`), as chat templates write them."""

from __future__ import annotations

import re

_PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""Beginning and end, as Qwen 3, DeepSeek-R1, Granite, Seed, Magistral, Command A and others write them."""
_EMPTY = "|".join(rf"{re.escape(opening)}\s*{re.escape(closing)}" for opening, closing in _PAIRS)
_OPEN = "|".join(re.escape(opening) for opening, _ in _PAIRS)
_FULL = "|".join(
    rf"{re.escape(opening)}(?:(?!{re.escape(closing)}).)*{re.escape(closing)}" for opening, closing in _PAIRS
)
_EMPTY_FIRST = re.compile(rf"\s*(?:{_EMPTY})\s*")
_EMPTY_LAST = re.compile(rf"(?:{_EMPTY})\s*\Z")
_OPEN_LAST = re.compile(rf"(?:{_OPEN})\s*\Z")
_FULL_FIRST = re.compile(rf"\s*(?:{_FULL})\s*", re.DOTALL)


def reasons(text: str) -> bool:
    """Whether an answer begins with reasoning that says something."""
    return bool(_FULL_FIRST.match(text)) and not _EMPTY_FIRST.match(text)


def empty_block(text: str, start: int = 0) -> int:
    """Where the empty block that begins at `start` ends, spaces included; `start` where there is none."""
    found = _EMPTY_FIRST.match(text, start)
    return found.end() if found else start


def without_empty(prompt: str) -> str:
    """A text without the empty block at its end."""
    return _EMPTY_LAST.sub("", prompt)


def without_block(prompt: str) -> str:
    """An open prompt without the empty or begun block at its end."""
    return _OPEN_LAST.sub("", without_empty(prompt))


def parts_of(text: str) -> list[str]:
    """Reasoning and answer apart, tags left out: templates set them anew, with other line breaks."""
    found = _FULL_FIRST.match(text)
    if not found:
        return [text.strip()]
    block = found.group().strip()
    opening, closing = next(pair for pair in _PAIRS if block.startswith(pair[0]))
    return [block.removeprefix(opening).removesuffix(closing).strip(), text[found.end() :].strip()]
