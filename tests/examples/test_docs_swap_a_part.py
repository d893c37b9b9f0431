"""docs/swap_a_part.md: its blocks run one after the other, in a folder as the page describes it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "swap_a_part.md"


@pytest.fixture
def folder(tmp_path: Path, model_spec: dict[str, Any], tiny_language_model: Path, rows: Path) -> Path:
    """`run.yaml`, `picture.png` and, in `another`, a language model that is 48 wide."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    another = tmp_path / "another"
    shutil.copytree(tiny_language_model, another)
    config = LlamaConfig.from_pretrained(tiny_language_model)
    config.hidden_size = 48
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(another)
    shutil.copy(rows.parent / "0.png", tmp_path / "picture.png")
    (tmp_path / "run.yaml").write_text(json.dumps({"model": model_spec}))
    return tmp_path


def test_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    printed = io.StringIO()
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    for block in blocks:
        with contextlib.redirect_stdout(printed):
            exec(compile(block, str(PAGE), "exec"), names)
    lines = printed.getvalue().splitlines()
    assert "MlpConnector 4 tokens a view" in lines
    assert "32 -> 48" in lines
    assert any(line.startswith("48 {") for line in lines)
    assert any("the identity connector cannot join a vision encoder of width 32" in line for line in lines)
    assert [line.split()[0] for line in lines[-3:]] == ["first", "wider", "linear"]
    assert type(names["model"].connector).__name__ == "Halved"
    with pytest.raises(TypeError, match=r"model\.connector must be a lensmith\.Connector; a Linear has neither"):
        names["model"].connector = names["torch"].nn.Linear(32, 32)
    # Swapping says the same in both ways, and the second model is another one.
    assert names["same"].language_model.shape == names["other"].language_model.shape
    assert names["same"].language_model.shape.width == 48
    assert names["model"].connector.shape.width == 32


def test_the_comparison_takes_a_dozen_lines() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Compare two models in a dozen lines")[2]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(block.splitlines()) <= 12
