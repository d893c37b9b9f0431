"""docs/specs.md says what the shipped recipes say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lensmith
from lensmith.errors import SpecError
from lensmith.spec.check import checked

ROOT = Path(__file__).parents[2]


def test_N19_the_page_names_the_folders_of_the_recipe() -> None:
    page = (ROOT / "docs" / "specs.md").read_text(encoding="utf-8")
    recipe = (ROOT / "plugins" / "lensmith_plugins" / "recipes" / "llava-1.5-7b.yaml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^extends: llava-1\.5-7b\n.*?(?=^```)", page, re.M | re.S)
    told = "".join(f"#   {line}\n" for line in block.splitlines())
    assert told in recipe


def test_N19_null_takes_a_recipe_s_config_away(
    light_spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = light_spec["model"]["language_model"]["checkpoint"]
    light_spec["model"]["language_model"] = {"name": "llama", "checkpoint": "owner/name", "config": other}
    swapped = ["model.language_model.checkpoint=nowhere", "model.language_model.config=null"]
    assert checked(light_spec).model.language_model.shape().width == 32  # type: ignore[union-attr, attr-defined]
    spec = lensmith.load_spec(light_spec, [f"model.language_model.checkpoint={other}", swapped[1]])
    assert spec.model.language_model.config is None  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match="nowhere"):
        checked(light_spec, swapped)


def test_N19_the_reference_says_where_a_name_is_imported_from() -> None:
    page = (ROOT / "docs" / "reference" / "functions.md").read_text(encoding="utf-8")
    assert "register" not in lensmith.__all__
    assert "## register\n\nFrom `lensmith_registry`.\n" in page
