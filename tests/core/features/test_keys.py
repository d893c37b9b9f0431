"""What features depend on: a change of any of it is another folder, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensmith.assembly import assemble
from lensmith.errors import TrainingError
from lensmith.features import keys
from lensmith.features.filling import open_folder
from lensmith.model import MultimodalModel
from lensmith.spec.pictures import PicturePolicy


def digest(spec: dict[str, Any], **options: Any) -> str:
    return keys.encoding(assembled(spec, **options)).digest


def assembled(spec: dict[str, Any], **options: Any) -> MultimodalModel:
    return assemble({"model": spec}, **options)


@pytest.fixture
def own(model_spec: dict[str, Any], encoder: Path) -> dict[str, Any]:
    """The model, with an encoder that a test may change."""
    return model_spec | {"vision_encoder": {"name": "clip", "checkpoint": str(encoder)}}


def one_number(encoder: Path) -> None:
    weights = load_file(encoder / "model.safetensors")
    name = next(n for n in weights if "layers.0.mlp.fc1.bias" in n)
    weights[name][3] += 1e-3
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})


def edited(file: str, **changes: Any) -> Callable[[Path], None]:
    def edit(encoder: Path) -> None:
        content = json.loads((encoder / file).read_text())
        (encoder / file).write_text(json.dumps(content | changes))

    return edit


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(one_number, id="one weight"),
        pytest.param(edited("preprocessor_config.json", image_mean=[0.4, 0.5, 0.5]), id="colours"),
        pytest.param(edited("preprocessor_config.json", resample=2), id="resampling"),
        pytest.param(edited("config.json", layer_norm_eps=1e-3), id="epsilon"),
        pytest.param(edited("config.json", hidden_act="gelu"), id="activation"),
    ],
)
def test_another_checkpoint_under_the_same_name(
    own: dict[str, Any], encoder: Path, change: Callable[[Path], None]
) -> None:
    before = digest(own)
    change(encoder)
    assert digest(own) != before


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("vision_encoder", {"select_layer": -3}),
        ("vision_encoder", {"cls_token": True}),
        ("image_splitter", {"name": "square"}),
        ("image_splitter", {"color": [1, 2, 3]}),
        ("image_splitter", {"name": "anyres"}),
    ],
)
def test_another_spec(own: dict[str, Any], part: str, change: dict[str, Any]) -> None:
    named = own[part] if isinstance(own[part], dict) else {"name": own[part]}
    assert digest(own | {part: named | change}) != digest(own)


def test_another_type_or_picture_policy(own: dict[str, Any]) -> None:
    plain = digest(own)
    assert digest(own, dtype=torch.bfloat16) != plain
    assert digest(own, policy=PicturePolicy(alpha="drop")) != plain


def test_what_features_do_not_depend_on(own: dict[str, Any], encoder: Path, tmp_path: Path) -> None:
    plain = digest(own)
    assert digest(own) == plain
    moved = shutil.copytree(encoder, tmp_path / "elsewhere")
    assert digest(own | {"vision_encoder": {"name": "clip", "checkpoint": str(moved)}}) == plain
    assert digest(own | {"connector": {"name": "linear"}}, seed=3) == plain
    # A block past the selected layer is not built, so it cannot change anything.
    weights = load_file(encoder / "model.safetensors")
    last = next(n for n in weights if "layers.2.mlp.fc1.bias" in n)
    weights[last] += 1
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    assert digest(own) == plain


def test_views_that_are_drawn_are_refused(own: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = assembled(own)
    monkeypatch.setattr(type(model.spec.vision_encoder), "draws_views", lambda self: True)
    with pytest.raises(TrainingError, match="'clip' draws the views of a picture anew each time; set cache: off"):
        keys.encoding(model)


def test_views_that_are_drawn_in_secret_are_found_out(own: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = assembled(own)
    plain = model.pictures.preprocessing

    class Jitter:
        background = plain.background

        def __call__(self, image: Any) -> torch.Tensor:
            return plain(image) + torch.rand(())

    model.pictures.preprocessing = Jitter()  # type: ignore[assignment]
    with pytest.raises(TrainingError, match="other views of the same picture each time"):
        keys.encoding(model)


def test_a_library_that_computes_otherwise_gets_a_folder_of_its_own(own: dict[str, Any], tmp_path: Path) -> None:
    encoding = keys.encoding(assembled(own))
    first = open_folder(tmp_path, encoding)
    assert open_folder(tmp_path, encoding) == first
    last_bits = keys.Encoding(encoding.about, encoding.probe * (1 + 1e-6))
    assert open_folder(tmp_path, last_bits) == first
    otherwise = keys.Encoding(encoding.about, encoding.probe.roll(1, dims=1))
    second = open_folder(tmp_path, otherwise)
    assert second != first
    assert open_folder(tmp_path, otherwise) == second
    assert open_folder(tmp_path, encoding) == first


def test_a_file_that_changes_has_another_key(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"abc")
    before, content = keys.file_key(tmp_path, "a.png"), keys.content_key(file)
    assert keys.file_key(tmp_path, "a.png") == before
    file.write_bytes(b"abd")
    assert keys.file_key(tmp_path, "a.png") != before
    assert keys.content_key(file) != content
