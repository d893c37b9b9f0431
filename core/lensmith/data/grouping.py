"""Many messages, told once for each reason: a folder that is wrong has one, however many rows there are."""

from __future__ import annotations

import re
from collections.abc import Iterable

_VARIES = re.compile(
    r"'[^']*'|\"[^\"]*\"|\S*/\S*|\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|jsonl?)\S*|\d+(?:[.,]\d+)*", re.IGNORECASE
)


def grouped(messages: Iterable[str]) -> list[tuple[str, int]]:
    """The first message of each reason and how many there are of it, the most frequent reason first.

    Reasons are equal where messages differ in paths, quoted words and numbers alone.
    """
    found: dict[str, tuple[str, int]] = {}
    for message in messages:
        reason = _VARIES.sub("*", message)
        first, count = found.get(reason, (message, 0))
        found[reason] = (first, count + 1)
    return sorted(found.values(), key=lambda entry: -entry[1])


def told(messages: Iterable[str], limit: int = 50) -> list[str]:
    """Lines for people: each reason once, with how many others there are of it.

    Args:
        messages: all of them.
        limit: reasons that are told.
    """
    groups = grouped(messages)
    lines = [f"{first} (and {count - 1:,} more like it)" if count > 1 else first for first, count in groups[:limit]]
    if len(groups) > limit:
        rest = sum(count for _, count in groups[limit:])
        lines.append(f"\u2026 and {rest:,} more, for {len(groups) - limit} other reasons")
    return lines
