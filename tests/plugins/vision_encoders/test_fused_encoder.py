"""Fused encoders against the encoders on their own, and inside a whole model and its artifact."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lensmith import IncompatibleParts, Kind, Loading, VisionEncoderSpec, assemble, implementation, load
from lensmith.spec.build import installed, load_spec, part_class
from lensmith.spec.check import check
from lensmith_plugins.vision_encoders.fused import FusedEncoder
from lensmith_plugins.vision_encoders.specs import Dinov2Spec, FusedSpec, SiglipSpec

Checkpoints = Callable[..., Path]


def recipe(checkpoints: Checkpoints, **dinov2: Any) -> list[dict[str, Any]]:
    """DINOv2 at 37 pixels and SigLIP at 28, both with 2 x 2 patches, one 40 wide and one 32."""
    return [
        {"name": "dinov2", "checkpoint": str(checkpoints("dinov2", hidden_size=40)), "image_size": 37, **dinov2},
        {"name": "siglip", "checkpoint": str(checkpoints("siglip"))},
    ]


def fused(encoders: list[dict[str, Any]]) -> FusedSpec:
    """The spec as a file would give it, with the parts' names."""
    spec = part_class(Kind.VISION_ENCODER, "fused", installed()).model_validate({"encoders": encoders})
    assert isinstance(spec, FusedSpec)
    return spec


def test_features_are_the_encoders_own_side_by_side(checkpoints: Checkpoints, pictures: list[Image.Image]) -> None:
    spec = fused(recipe(checkpoints))
    shape = spec.shape()
    assert shape is not None
    assert (shape.image_size, shape.channels, shape.grid, shape.width) == ((37, 37), 6, (2, 2), 72)
    preprocessing = pickle.loads(pickle.dumps(FusedEncoder.preprocessing(spec)))
    encoder = FusedEncoder.build(spec, Loading()).eval()
    pixels = torch.stack([preprocessing(picture) for picture in pictures])
    assert pixels.shape == (len(pictures), 6, 37, 37)
    assert not pixels[:, 3:, 28:].any()
    assert not pixels[:, 3:, :, 28:].any()
    pixels[:, 3:, 28:] = float("nan")  # nobody reads the padding
    alone = []
    with torch.no_grad():
        for part in spec.encoders:
            part_class_ = implementation(Kind.VISION_ENCODER, part)
            views = torch.stack([part_class_.preprocessing(part)(picture) for picture in pictures])
            alone.append(part_class_.build(part, Loading()).eval()(views))
        torch.testing.assert_close(encoder(pixels), torch.cat(alone, dim=-1), rtol=0, atol=1e-6)
    assert preprocessing.background == (123, 116, 103)  # DINOv2's, which comes first


def test_the_closed_form_is_the_module(checkpoints: Checkpoints) -> None:
    spec = fused([*recipe(checkpoints, cls_token=False), {"name": "clip", "checkpoint": str(checkpoints("clip"))}])
    shape = FusedEncoder.build(spec, Loading()).shape
    assert spec.shape() == shape == FusedEncoder.measure(spec)
    measured = super(FusedEncoder, FusedEncoder).measure(spec)  # on the meta device, with the module's own tensors
    assert measured == shape
    assert shape.parameters[0].name == "encoders.0.network.embeddings.cls_token"
    assert shape.flops_per_view == sum(part.shape().flops_per_view for part in spec.encoders)  # type: ignore[union-attr]


def test_without_a_closed_form_it_is_measured(checkpoints: Checkpoints) -> None:
    spec = fused([recipe(checkpoints)[1], {"name": "timm", "model": "test_resnet", "image_size": 64, "grid": 2}])
    assert spec.shape() is None
    assert FusedEncoder.measure(spec) == FusedEncoder.build(spec, Loading()).shape
    assert FusedEncoder.measure(spec).width == 32 + 96  # of the last stage of test_resnet


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"image_size": 56},
            r"encoders\.0 \(dinov2\) and encoders\.1 \(siglip\) cannot be fused: 4 x 4 and 2 x 2 tokens; choose .*"
            r"encoders\.1 \(siglip\) has 4 x 4 at 56 pixels",
        ),
        ({"cls_token": True}, "they keep 1 and 0 tokens beside the grid; set cls_token alike, or false in both"),
    ],
)
def test_encoders_that_do_not_fit(checkpoints: Checkpoints, fields: dict[str, Any], message: str) -> None:
    spec = fused(recipe(checkpoints, **fields))
    with pytest.raises(IncompatibleParts, match=message):
        spec.shape()
    with pytest.raises(IncompatibleParts, match=message):
        FusedEncoder.build(spec, Loading())


def test_specs_made_in_python_need_no_names(checkpoints: Checkpoints) -> None:
    named = recipe(checkpoints)
    parts: list[VisionEncoderSpec] = [
        Dinov2Spec(checkpoint=named[0]["checkpoint"], image_size=37),
        SiglipSpec(checkpoint=named[1]["checkpoint"]),
    ]
    spec = FusedSpec(encoders=parts)
    assert FusedEncoder.build(spec, Loading()).shape == fused(named).shape()
    with pytest.raises(ValueError, match="at least 2 items"):
        FusedSpec(encoders=parts[:1])


def test_where_weights_come_from_and_go(checkpoints: Checkpoints, tmp_path: Path) -> None:
    spec = fused(recipe(checkpoints))
    assert not spec.fresh()
    assert spec.sources() == {f"encoders.{n}.checkpoint": e["checkpoint"] for n, e in enumerate(recipe(checkpoints))}
    config = checkpoints("siglip") / "config.json"
    assert fused([recipe(checkpoints)[0], {"name": "siglip", "config": str(config)}]).fresh()
    encoder, pixels = FusedEncoder.build(spec, Loading()).eval(), torch.randn(1, 6, 37, 37)
    gathered = {name: parameter.detach() + 0.01 for name, parameter in encoder.named_parameters()}
    for name, state in (("own", None), ("gathered", gathered)):
        encoder.save(tmp_path / name, state)
        assert sorted(folder.name for folder in (tmp_path / name).iterdir()) == ["0_dinov2", "1_siglip"]
    with torch.no_grad():
        again = FusedEncoder.build(spec.relocated(tmp_path / "own"), Loading()).eval()
        torch.testing.assert_close(again(pixels), encoder(pixels), rtol=0, atol=0)
        encoder.load_state_dict(gathered, strict=False)
        again = FusedEncoder.build(spec.relocated(tmp_path / "gathered"), Loading()).eval()
        torch.testing.assert_close(again(pixels), encoder(pixels), rtol=0, atol=0)


@pytest.fixture
def whole(checkpoints: Checkpoints, tiny_language_model: Path) -> dict[str, Any]:
    return {
        "model": {
            "vision_encoder": {"name": "fused", "encoders": recipe(checkpoints)},
            "image_splitter": "pad",
            "connector": "linear",
            "language_model": {"name": "llama", "checkpoint": str(tiny_language_model)},
            "conversation": "chatml",
        }
    }


def test_a_whole_model_answers_and_its_artifact_does(
    whole: dict[str, Any], pictures: list[Image.Image], tmp_path: Path
) -> None:
    assert check(load_spec(whole)) == []
    model = assemble(whole)
    answer = model.generate(pictures[2], "What is it?")
    model.save(tmp_path / "artifact")
    manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    parts = manifest["plugins"]["vision_encoder"]["parts"]
    assert {path: (part["kind"], part["name"], part["distribution"]) for path, part in parts.items()} == {
        "encoders.0": ("vision_encoder", "dinov2", "lensmith"),
        "encoders.1": ("vision_encoder", "siglip", "lensmith"),
    }
    assert set(manifest["sources"]) >= {f"vision_encoder.encoders.{n}.checkpoint" for n in (0, 1)}
    assert load(tmp_path / "artifact").generate(pictures[2], "What is it?") == answer
    # Trained encoders lie in the artifact, and only there.
    model.changed.add("vision_encoder")
    model.save(tmp_path / "trained")
    assert (tmp_path / "trained" / "vision_encoder" / "1_siglip" / "model.safetensors").is_file()
    again = load(tmp_path / "trained")
    assert again.generate(pictures[2], "What is it?") == answer
    assert str(again.spec.vision_encoder.encoders[0].checkpoint).startswith(str(tmp_path))  # type: ignore[attr-defined]


def test_a_base_that_has_moved_can_be_told(whole: dict[str, Any], checkpoints: Checkpoints, tmp_path: Path) -> None:
    import shutil

    moving = tmp_path / "siglip"
    shutil.copytree(checkpoints("siglip"), moving)
    whole["model"]["vision_encoder"]["encoders"][1]["checkpoint"] = str(moving)
    assemble(whole).save(tmp_path / "artifact")
    moving.rename(tmp_path / "moved")
    with pytest.raises(Exception, match=r"say where it is now with vision_encoder\.encoders\.1\.checkpoint=PATH"):
        load(tmp_path / "artifact")
    load(tmp_path / "artifact", overrides=[f"vision_encoder.encoders.1.checkpoint={tmp_path / 'moved'}"])


def test_a_missing_package_of_an_encoder_is_named(whole: dict[str, Any], tmp_path: Path) -> None:
    assemble(whole).save(tmp_path / "artifact")
    file = tmp_path / "artifact" / "manifest.json"
    manifest = json.loads(file.read_text())
    part = manifest["plugins"]["vision_encoder"]["parts"]["encoders.1"]
    part.update({"name": "strange", "distribution": "strange-eyes", "version": "0.3"})
    manifest["model"]["vision_encoder"]["encoders"][1]["name"] = "strange"
    file.write_text(json.dumps(manifest))
    with pytest.raises(Exception, match=r"vision_encoder 'strange' is not installed; .*pip install strange-eyes==0\.3"):
        load(tmp_path / "artifact")
