"""Words and pictures that a chat template must carry along without reading them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lensmith.interfaces.text import IMAGE_PLACEHOLDER

_OPEN, _CLOSE = "\ue000", "\ue001"
_HIDDEN = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_ALONE = re.compile(f"[{_OPEN}{_CLOSE}]")


@dataclass(frozen=True)
class Shown:
    """What was hidden: text, or a picture where `text` is None."""

    text: str | None


class HiddenText:
    """Stands private-use characters for pictures and for special tokens that a user spells.

    So the special tokens of a rendered text are the template's own. All other words stay as they are, since templates
    trim and look at them.

    Args:
        split: finds special tokens; see `Tokenizer.split_special`.
    """

    def __init__(self, split: Callable[[str], list[tuple[str, str | None]]]) -> None:
        self._split = split
        self._kept: list[Shown] = []

    def hide(self, parts: Sequence[str | None]) -> str:
        """A message's text with stand-ins."""
        return "".join(self._keep(None) if part is None else self._safe(part) for part in parts)

    def reveal(self, text: str) -> Iterator[tuple[str, Shown | None]]:
        """The stretches of a rendered text; with each stand-in what it stands for."""
        start = 0
        for found in _HIDDEN.finditer(text):
            if found.start() > start:
                yield text[start : found.start()], None
            yield found.group(), self._kept[int(found.group(1))]
            start = found.end()
        if start < len(text):
            yield text[start:], None

    def plain(self, text: str) -> str:
        """Text with what its stand-ins stand for, pictures as `<image>`, to be read by people."""
        return "".join(
            piece if shown is None else IMAGE_PLACEHOLDER if shown.text is None else shown.text
            for piece, shown in self.reveal(text)
        )

    def _safe(self, text: str) -> str:
        # Stand-ins that a user writes are hidden too, each alone, so that none can be made up.
        pieces = _ALONE.split(text)
        written = "".join(self._literals(pieces[0]))
        for mark, piece in zip(_ALONE.findall(text), pieces[1:], strict=True):
            written += self._keep(mark) + self._literals(piece)
        return written

    def _literals(self, text: str) -> str:
        return "".join(piece if token is None else self._keep(piece) for piece, token in self._split(text))

    def _keep(self, text: str | None) -> str:
        self._kept.append(Shown(text))
        return f"{_OPEN}{len(self._kept) - 1}{_CLOSE}"
