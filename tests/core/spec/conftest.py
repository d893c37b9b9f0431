"""Spec files on disk. Validation reads no checkpoint, so that none is needed here."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith import SpecError, load_spec
from lensmith.errors import Problem

Write = Callable[[str, str], Path]

BASE = """\
model:
  vision_encoder:
    name: clip
    checkpoint: ./encoders/clip
  image_splitter: pad
  connector:
    name: mlp
    depth: 3
  language_model: {name: llama, checkpoint: ../llama}
  conversation: chatml
stages:
  align:
    tuner: frozen
    data: {sources: rows.jsonl}
    lr: 1e-3
  tune:
    tuner: {name: lora, rank: 4}
    data:
      sources:
        - rows.jsonl
        - {path: more.jsonl, weight: 2}
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("folder/name.yaml", text)` below a fresh folder."""

    def to(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return to


@pytest.fixture
def base(write: Write) -> Path:
    """A whole spec, `specs/base.yaml`."""
    return write("specs/base.yaml", BASE)


@pytest.fixture
def problems() -> Callable[..., list[Problem]]:
    """What is wrong with a spec: `problems(source, *overrides)`."""

    def of(source: Any, *overrides: str) -> list[Problem]:
        with pytest.raises(SpecError) as caught:
            load_spec(source, overrides)
        return caught.value.problems

    return of


@pytest.fixture
def told(problems: Callable[..., list[Problem]]) -> Callable[..., str]:
    """The same as one text."""

    def of(source: Any, *overrides: str) -> str:
        return "\n".join(str(problem) for problem in problems(source, *overrides))

    return of
