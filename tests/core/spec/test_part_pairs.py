"""Parts that are each right and cannot work together: refused from config files, with both names and the cure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith import Component, ConnectorShape, ConnectorSpec, Kind, VisionShape, linear, load_spec, plan
from lensmith.spec import installed
from lensmith.spec.check import check
from lensmith_registry import Plugin, Registry

Checked = Callable[..., dict[str, str]]


class ResamplerSpec(ConnectorSpec):
    """Two tokens a view, on no grid."""

    def shape(self, encoder: VisionShape, width: int) -> ConnectorShape:
        return ConnectorShape(2, width, None, linear("project", encoder.width, width))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """With a connector that keeps no grid."""
    part = Component(Kind.CONNECTOR, "resampler", ResamplerSpec, "theirs:Resampler", "two tokens", "theirs")
    found = Registry([*installed().plugins, Plugin("theirs", "theirs", "1", "theirs", components=(part,))])
    monkeypatch.setattr("lensmith.parts.installed", lambda: found)
    return found


@pytest.fixture
def sound(light_spec: dict[str, Any]) -> dict[str, Any]:
    """Views of 2 x 2 tokens, pictures of up to 24 positions under anyres, rows of up to 64."""
    light_spec["model"]["image_splitter"] = "anyres"
    return light_spec


@pytest.fixture
def checked(sound: dict[str, Any], registry: Registry) -> Checked:
    """Messages by path, of the sound spec with overrides."""
    return lambda *overrides: {p.path: p.message for p in check(load_spec(sound, overrides, registry))}


@pytest.mark.parametrize("splitter", ["anyres", "hd", "{name: anyres, merge: spatial}", "{name: anyres, merge: flat}"])
def test_splitters_that_fit(splitter: str, checked: Checked) -> None:
    assert checked(f"model.image_splitter={splitter}") == {}


@pytest.mark.parametrize("splitter", ["anyres", "{name: anyres, merge: spatial}", "hd"])
def test_a_stitching_splitter_needs_the_grid(splitter: str, checked: Checked) -> None:
    found = checked(f"model.image_splitter={splitter}", "model.connector=resampler")
    assert list(found) == ["model"]
    name = "hd" if splitter == "hd" else "anyres"
    for words in (f"image_splitter '{name}'", "connector 'resampler'", "connector that keeps the grid", "merge: flat"):
        assert words in found["model"]
    assert checked("model.image_splitter={name: anyres, merge: flat}", "model.connector=resampler") == {}


def test_a_stitching_splitter_and_cls_tokens(checked: Checked) -> None:
    found = checked("model.vision_encoder.cls_token=true")
    assert list(found) == ["model"]
    for words in ("image_splitter 'anyres'", "vision_encoder 'clip'", "`cls_token: false`", "merge: flat"):
        assert words in found["model"]


def test_grids_that_are_not_whole_views(checked: Checked) -> None:
    message = checked("model.image_splitter={name: anyres, grids: [[56, 30]]}")["model"]
    assert "grid [56, 30]" in message
    assert "[28, 28]" in message


def test_the_largest_picture_must_fit_a_row(checked: Checked) -> None:
    """A picture of the encoder's own size takes 10 positions, the largest 24."""
    assert checked("stages.align.data.max_length=25") == {}
    message = checked("stages.align.data.max_length=24")["stages.align.data.max_length"]
    for words in (
        "a picture of 56 x 56 pixels (width x height) takes 24 positions and a row may take 24; raise it",
        "fewer tiles",
        "long_rows: skip",
        "image_splitter 'anyres'",
        "language_model 'llama' has a context length of 64",
    ):
        assert words in message
    for policy in ("long_rows", "bad_rows"):
        assert checked("stages.align.data.max_length=24", f"stages.align.data.{policy}=skip") == {}


def test_rows_that_are_left_out_leave_the_usual_picture(checked: Checked) -> None:
    found = checked("stages.align.data.max_length=10", "stages.align.data.long_rows=skip")
    message = found["stages.align.data.max_length"]
    assert "a picture of 28 x 28 pixels (width x height) takes 10 positions and a row may take 10" in message
    assert "long_rows" not in message


def test_pictures_must_fit_the_context_of_a_model_without_stages(sound: dict[str, Any], checked: Checked) -> None:
    del sound["stages"]
    assert checked() == {}
    found = checked("model.image_splitter={name: anyres, grids: [[28, 448]]}")
    assert list(found) == ["model.language_model"]
    assert "takes 100 positions and a row may take 64" in found["model.language_model"]
    assert "image_splitter 'anyres'" in found["model.language_model"]


def test_the_plan_counts_tiles(sound: dict[str, Any]) -> None:
    # 1080 x 1920 on 2 x 2 views of 2 x 2 tokens: of 4 rows int(2.25) = 2 are kept, of 4 tokens and a row end.
    sizes = {(p.height, p.width): (p.views, p.tokens) for p in plan(sound).pictures}
    assert sizes[1080, 1920] == (5, 4 + 2 * 5)
    planned = plan(sound, overrides=["model.image_splitter=hd"])
    assert {p.tokens for p in planned.pictures} != {4}
    assert planned.parameters["image_splitter"] == 32
    assert "image_splitter.newline" in {p.name for p in planned.stages[0].trainable}


def test_refusing_imports_no_torch(sound: dict[str, Any], tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    sound["model"]["vision_encoder"]["cls_token"] = True
    spec.write_text(json.dumps(sound))
    code = (
        "import sys\n"
        "from lensmith.spec import load_spec\n"
        "from lensmith.spec.check import check\n"
        f"assert [p.path for p in check(load_spec({str(spec)!r}))] == ['model']\n"
        "sys.exit(' '.join(sorted({'torch', 'transformers', 'numpy', 'PIL'} & sys.modules.keys())) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
