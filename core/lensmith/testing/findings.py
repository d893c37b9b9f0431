"""What a check finds, and how a check says so."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from lensmith_registry import Component

_CORE = str(Path(__file__).parents[1])
_LIBRARIES = ("torch", "transformers", "pydantic", "peft", "tokenizers", "safetensors", "importlib")
Outcome = Literal["pass", "fail", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """One check of one part.

    Args:
        component: the part.
        check: the check's name.
        outcome: how it ended.
        promise: of a failure, what the interface promises, one sentence.
        seen: of a failure, what was seen, one sentence; else why the check does not apply.
    """

    component: Component
    check: str
    outcome: Outcome
    promise: str = ""
    seen: str = ""

    def __str__(self) -> str:
        title = f"{self.component}, {self.check}: {self.outcome}"
        if self.outcome == "fail":
            return f"{title}\n  promised: {self.promise}\n  seen:     {self.seen}"
        return f"{title} ({self.seen})" if self.seen else title


class Broken(Exception):
    """A part does not do what its interface promises."""

    def __init__(self, promise: str, seen: str) -> None:
        super().__init__(f"promised: {promise} Seen: {seen}")
        self.promise, self.seen = promise, seen


class NotApplicable(Exception):
    """A check that means nothing for this part, and why."""


def expect(holds: bool, promise: str, seen: str) -> None:
    """Raises `Broken` unless `holds`; both texts are one whole sentence."""
    if not holds:
        raise Broken(promise, seen)


def told(error: BaseException) -> str:
    """An exception as a sentence, with the last line of the part's own code that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(f"/{name}/" in frame.filename for name in _LIBRARIES)]
    own = [frame for frame in own if not frame.filename.startswith(_CORE)] or frames
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    text = " ".join(_text(error).split())
    text = text if len(text) < 600 else f"{text[:600]}…"
    return f"it raised {type(error).__name__}: {text}{place}"


def _text(error: BaseException) -> str:
    """Its message; of a spec's mistakes each field with what is wrong."""
    if not isinstance(error, ValidationError):
        return str(error)
    mistakes = []
    for detail in error.errors(include_url=False, include_input=False):
        field = ".".join(map(str, detail["loc"]))
        mistakes.append(f"{field}: {detail['msg']}" if field else detail["msg"])
    return "; ".join(mistakes)


def some(names: object, limit: int = 5) -> str:
    """The first names of a collection, and how many more there are."""
    listed = sorted(map(str, names))  # type: ignore[call-overload]
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest
