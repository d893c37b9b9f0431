"""Under a transformers that no test knows, architectures that the tests know are looked at again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lensmith import Loading
from lensmith_plugins.language_models import exactness
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.specs import LlamaSpec


@pytest.mark.parametrize(("version", "looked"), [("99.0", True), (None, True), ("5.24.0", False)])
def test_V1_an_untested_transformers_is_looked_at(
    version: str | None, looked: bool, tiny_language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exactness, "installed", lambda name: version)
    asked: list[Any] = []
    hidden = exactness._hidden
    monkeypatch.setattr(exactness, "_hidden", lambda *given: asked.append(given) or hidden(*given))
    model = HfCausalLanguageModel.build(LlamaSpec(checkpoint=str(tiny_language_model)), Loading())
    assert bool(asked) is looked
    assert model.packing_obstacle() == ""
    assert model.memory() is not None
