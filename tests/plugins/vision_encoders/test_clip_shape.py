"""The closed form against the real module, built on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPVisionConfig

from lensmith import Loading
from lensmith_plugins.vision_encoders.clip import ClipEncoder
from lensmith_plugins.vision_encoders.clip_shape import DEFAULTS
from lensmith_plugins.vision_encoders.specs import ClipSpec

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tiny": {**TINY, "image_size": 28, "patch_size": 14},
    "odd": {**TINY, "image_size": 30, "patch_size": 8},  # the last pixels lie in no patch
    "b32": {},
    "l14": {**LARGE, "patch_size": 14},
    "l14-336": {**LARGE, "patch_size": 14, "image_size": 336},
}


def write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("cls_token", [False, True])
@pytest.mark.parametrize("select_layer", [-2, -1, 0, 1])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_closed_form_is_the_module(tmp_path: Path, name: str, select_layer: int, cls_token: bool) -> None:
    config = write(tmp_path / "c", {"model_type": "clip_vision_model", **ARCHITECTURES[name]})
    spec = ClipSpec(config=config, select_layer=select_layer, cls_token=cls_token)
    shape = spec.shape()
    with torch.device("meta"):
        encoder = ClipEncoder.build(spec, Loading(weights=False))
        with FlopCounterMode(display=False) as counter:
            features = encoder(torch.zeros(2, 3, *shape.image_size))
    assert ClipEncoder.measure(spec) == shape  # every name, shape and linear flag, in order
    assert features.shape == (2, shape.tokens, shape.width)
    assert counter.get_total_flops() == 2 * shape.flops_per_view
    assert shape.tokens == shape.grid[0] * shape.grid[1] + cls_token


def test_l14_at_336_has_the_published_sizes(tmp_path: Path) -> None:
    shape = ClipSpec(config=write(tmp_path / "c", ARCHITECTURES["l14-336"])).shape()
    assert (shape.grid, shape.tokens, shape.width) == ((24, 24), 576, 1024)
    assert "network.encoder.layers.22.mlp.fc2.bias" in {tensor.name for tensor in shape.parameters}
    assert not any("layers.23" in tensor.name or "post" in tensor.name for tensor in shape.parameters)


def test_defaults_are_those_of_transformers() -> None:
    config = CLIPVisionConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "clip"},
        {"model_type": "clip", "vision_config": {"hidden_size": 48, "num_attention_heads": 4}},
        {"vision_config": {"image_size": 64, "patch_size": 16, "model_type": "clip_vision_model"}},
        {
            "model_type": "clip",
            "vision_config": {"hidden_size": 48, "num_attention_heads": 4, "patch_size": 8},
            "vision_config_dict": {"num_hidden_layers": 3, "patch_size": 14},
        },
    ],
)
def test_full_clip_configs_are_read_as_transformers_reads_them(tmp_path: Path, config: dict[str, Any]) -> None:
    architecture = ClipSpec(config=write(tmp_path / "c", config)).architecture()
    expected = CLIPConfig.from_dict(config).vision_config
    assert architecture == {name: getattr(expected, name) for name in DEFAULTS}


@pytest.mark.parametrize(("layer", "blocks"), [(-2, 2), (-1, 3), (3, 3), (-4, 0), (0, 0), (1, 1)])
def test_a_layer_needs_the_blocks_before_it(tmp_path: Path, layer: int, blocks: int) -> None:
    spec = ClipSpec(config=write(tmp_path / "c", ARCHITECTURES["tiny"]), select_layer=layer)
    assert spec.blocks() == blocks
    assert len({t.name.split(".")[3] for t in spec.shape().parameters if ".layers." in t.name}) == blocks


@pytest.mark.parametrize("layer", [4, -5, 100])
def test_a_layer_that_is_not_there_names_the_range(tmp_path: Path, layer: int) -> None:
    spec = ClipSpec(config=write(tmp_path / "c", ARCHITECTURES["tiny"]), select_layer=layer)
    with pytest.raises(ValueError, match=rf"select_layer {layer} .* 3 layers; it may be -4 to 3 "):
        spec.shape()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "siglip_vision_model"},
            "of a 'siglip_vision_model' model; the clip encoder reads",
        ),
        ({"image_size": [224, 224]}, r"image_size must be a whole number above 0, not \[224, 224\]"),
        ({"hidden_size": 50}, "hidden_size 50 is not a multiple of num_attention_heads 12"),
        ({"image_size": 16}, "patch_size 32 is larger than image_size 16"),
    ],
)
def test_a_config_that_cannot_work_is_told(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    folder = write(tmp_path / "c", config)
    with pytest.raises(ValueError, match=message) as caught:
        ClipSpec(config=folder).shape()
    assert str(folder) in str(caught.value)


def test_a_source_is_needed_and_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a checkpoint, or a config"):
        ClipSpec()
    with pytest.raises(FileNotFoundError, match=r"nowhere.* does not exist"):
        ClipSpec(checkpoint=str(tmp_path / "nowhere")).shape()


def test_a_config_plans_for_a_checkpoint_that_is_not_here(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", ARCHITECTURES["l14"])
    spec = ClipSpec(checkpoint="openai/clip-vit-large-patch14", config=folder / "config.json")
    assert spec.shape().tokens == 256
    assert ClipEncoder.measure(spec) == spec.shape()
