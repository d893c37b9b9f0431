"""Plugins of strangers: modules with the metadata that an installer would write beside them."""

from __future__ import annotations

import importlib.metadata
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith_registry import Registry, discover

GOOD = """
    from lensmith import Component, ConnectorShape, ConnectorSpec, Kind, hookimpl

    api_version = 1

    class Spec(ConnectorSpec):
        '''A connector of a stranger.'''
        width: int = 8
        '''Any width.'''

    @hookimpl
    def lensmith_components():
        return [Component(Kind.CONNECTOR, "{name}", Spec, "{module}_impl:Connector", "of a stranger")]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write one distribution with one plugin module: `install("module", code, version="1.0", entry="…")`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(module: str, code: str, *, version: str = "1.0", entry: str = "", distribution: str = "") -> Path:
        distribution = distribution or module.replace("_", "-")
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[lensmith]\n{entry or f'{module} = {module}'}\n")
        return tmp_path

    return write


@pytest.fixture
def discovered(tmp_path: Path) -> Callable[[], Registry]:
    """Discover what `install` wrote, through real entry points, without what else this machine has."""

    def find() -> Registry:
        entry_points = [
            entry_point
            for distribution in importlib.metadata.distributions(path=[str(tmp_path)])
            for entry_point in distribution.entry_points
        ]
        return discover(entry_points)

    return find


@pytest.fixture
def good() -> Callable[[str, str], str]:
    """Code of a plugin that works: `good(module, name of its connector)`."""
    return lambda module, name: GOOD.format(module=module, name=name)


@pytest.fixture
def light_spec(tmp_path: Path) -> dict[str, Any]:
    """A spec whose checkpoints are config files alone: enough for `check`, and made without torch."""
    encoder = {"model_type": "clip_vision_model", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    encoder |= {"intermediate_size": 64, "image_size": 28, "patch_size": 14}
    language = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    language |= {"num_attention_heads": 4, "vocab_size": 330, "max_position_embeddings": 256}
    for folder, config in (("encoder", encoder), ("language", language)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return {
        "model": {
            "vision_encoder": {"name": "clip", "checkpoint": str(tmp_path / "encoder")},
            "image_splitter": "pad",
            "connector": "mlp",
            "language_model": {"name": "llama", "checkpoint": str(tmp_path / "language")},
            "conversation": "chatml",
        },
        "stages": {"align": {"tuner": "frozen", "data": {"sources": str(tmp_path / "rows.jsonl")}}},
    }
