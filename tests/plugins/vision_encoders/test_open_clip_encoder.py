"""Image towers of open_clip against open_clip's own model and transform."""

from __future__ import annotations

import json
import pickle
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lensmith import Loading
from lensmith_plugins.vision_encoders.open_clip_spec import conversion
from lensmith_plugins.vision_encoders.open_clip_tower import OpenClipEncoder
from lensmith_plugins.vision_encoders.specs import OpenClipSpec

Checkpoints = Callable[..., Path]


@torch.no_grad()
def encode(spec: OpenClipSpec, pixels: torch.Tensor) -> torch.Tensor:
    return OpenClipEncoder.build(spec, Loading()).eval()(pixels)


@torch.no_grad()
def hidden_states(folder: Path, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Of the whole model, recorded where the blocks meet."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    model = open_clip.CLIP(**config).eval()
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    found: list[torch.Tensor] = []
    blocks = model.visual.transformer.resblocks
    blocks[0].register_forward_pre_hook(lambda _, given: found.append(given[0]))
    for block in blocks:
        block.register_forward_hook(lambda _, __, made: found.append(made))
    model.encode_image(pixels)
    return found


@pytest.mark.parametrize("layer", [-4, -2, -1, 0, 1, 3])
@pytest.mark.parametrize("config", [{}, {"ls_init_value": 0.1, "no_ln_pre": True, "pool_type": "avg"}], ids=["", "alt"])
def test_features_are_the_patches_of_the_hidden_state(checkpoints: Checkpoints, layer: int, config: Any) -> None:
    folder, pixels = checkpoints("open_clip", **config), torch.randn(2, 3, 28, 28)
    hidden = hidden_states(folder, pixels)[layer]
    spec = OpenClipSpec(checkpoint=folder, select_layer=layer)
    torch.testing.assert_close(encode(spec, pixels), hidden[:, 1:], rtol=0, atol=0)
    with_class = spec.model_copy(update={"cls_token": True})
    torch.testing.assert_close(encode(with_class, pixels), hidden, rtol=0, atol=0)


def test_a_model_of_open_clip_by_name(tmp_path: Path) -> None:
    """The smallest that it ships, from a single file with both towers."""
    model = open_clip.create_model("ViT-S-32-alt").eval()
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, tmp_path / "both.safetensors")
    spec = OpenClipSpec(model="ViT-S-32-alt", checkpoint=tmp_path / "both.safetensors")
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        last = model.visual.forward_intermediates(pixels, indices=[10], output_fmt="NLC", intermediates_only=True)
    assert len(model.visual.transformer.resblocks) == 12
    torch.testing.assert_close(encode(spec, pixels), last["image_intermediates"][0], rtol=0, atol=1e-6)
    assert (spec.fresh(), spec.sources()) == (False, {"checkpoint": str(tmp_path / "both.safetensors")})


@pytest.mark.parametrize(
    ("model", "tag"),
    [(None, None), ("ViT-L-14", "laion2b_s32b_b82k"), ("ViT-L-14-CLIPA", "datacomp1b"), ("ViT-B-32", "laion2b_e16")],
)
def test_pixels_are_open_clips_own(
    checkpoints: Checkpoints, pictures: list[Image.Image], model: str | None, tag: str | None
) -> None:
    """Tags differ in colours, filter and in whether the picture is cropped or squashed."""
    if model is None:
        spec = OpenClipSpec(checkpoint=checkpoints("open_clip"))
        config = open_clip.transform.PreprocessCfg(size=(28, 28))
    else:
        spec = OpenClipSpec(model=model, pretrained=tag)
        known = open_clip.get_pretrained_cfg(model, tag)
        fields = {name: known[name] for name in ("mean", "std", "interpolation", "resize_mode")}
        config = open_clip.transform.PreprocessCfg(size=spec.shape().image_size, **fields)
    preprocessing = pickle.loads(pickle.dumps(OpenClipEncoder.preprocessing(spec)))
    own = open_clip.transform.image_transform_v2(config, is_train=False)
    for picture in pictures:
        assert torch.equal(preprocessing(picture), own(picture))
    assert preprocessing.background == tuple(int(value * 255) for value in config.mean)


def test_a_saved_encoder_keeps_its_pictures_and_loads_again(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = checkpoints("open_clip")
    described = json.loads((folder / "open_clip_config.json").read_text())
    described["preprocess_cfg"] = {"mean": [0.5, 0.4, 0.3], "resize_mode": "squash", "interpolation": "bilinear"}
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "open_clip_config.json").write_text(json.dumps(described))
    (tmp_path / "given" / "open_clip_model.safetensors").symlink_to(folder / "open_clip_model.safetensors")
    spec = OpenClipSpec(checkpoint=tmp_path / "given", select_layer=1)
    encoder, pixels = OpenClipEncoder.build(spec, Loading()).eval(), torch.randn(1, 3, 28, 28)
    (tmp_path / "saved").mkdir()
    encoder.save(tmp_path / "saved")
    again = spec.relocated(tmp_path / "saved")
    assert again.shape() == spec.shape()
    with torch.no_grad():
        torch.testing.assert_close(encode(again, pixels), encoder(pixels), rtol=0, atol=0)
    picture = Image.new("RGB", (50, 20), (9, 99, 199))
    assert OpenClipEncoder.preprocessing(again).background == (127, 102, 76)
    assert torch.equal(OpenClipEncoder.preprocessing(again)(picture), OpenClipEncoder.preprocessing(spec)(picture))


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_a_pickle_is_refused_and_the_remedy_works(
    checkpoints: Checkpoints, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints("open_clip")
    weights = load_file(folder / "open_clip_model.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, tmp_path / f"w{suffix}")
    with pytest.raises(ValueError, match=rf"w\{suffix} is a pickle, which may run code .* convert it") as caught:
        OpenClipSpec(model="ViT-B-32", checkpoint=tmp_path / f"w{suffix}")
    assert conversion(f"w{suffix}") in str(caught.value)
    python, option, code = shlex.split(conversion(f"w{suffix}"))
    assert (python, option) == ("python", "-c")
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # what python -c does, without starting another one
    assert load_file(tmp_path / "w.safetensors").keys() == weights.keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": "ViT-B-16-SigLIP"},
            "image tower is timm's; use the timm encoder, model: vit_base_patch16_siglip_224",
        ),
        ({"model": "EVA02-B-16"}, "use the timm encoder, model: eva02_base_patch16_clip_224"),
        ({"model": "RN50"}, "is a ResNet, .* use the timm encoder, e.g. model: resnet50_clip"),
        ({"model": "ViT-L14"}, "open_clip has no model 'ViT-L14'; did you mean ViT-L-14"),
        ({"model": "ViT-B-32", "select_layer": 13}, "select_layer 13 is not in this encoder of 12 layers"),
    ],
)
def test_models_that_cannot_be_had(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenClipSpec(**fields).shape()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pretrained": "nope"}, "open_clip has no weights 'nope' of ViT-B-32; it has openai, laion400m_e31"),
        ({"pretrained": "openai"}, "trained with another activation than ViT-B-32 has; name the model ViT-B-32-quick"),
    ],
)
def test_tags_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    spec = OpenClipSpec(model="ViT-B-32", **fields)
    for use in (lambda: OpenClipEncoder.preprocessing(spec), lambda: OpenClipEncoder.build(spec, Loading())):
        with pytest.raises(ValueError, match=message):
            use()


def test_weights_that_are_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", lambda **_: (_ for _ in ()).throw(OSError("offline")))
    spec = OpenClipSpec(model="ViT-S-32-alt", pretrained=None)
    assert spec.fresh()
    spec = OpenClipSpec(model="ViT-B-32", pretrained="laion2b_s34b_b79k")
    assert spec.sources() == {"pretrained": "ViT-B-32:laion2b_s34b_b79k"}
    with pytest.raises(OSError, match=r"neither cached nor can they be downloaded .* give a local checkpoint"):
        OpenClipEncoder.build(spec, Loading())
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors does not exist"):
        OpenClipEncoder.build(OpenClipSpec(model="ViT-B-32", checkpoint=tmp_path / "gone.safetensors"), Loading())


def test_weights_of_another_model_are_named(checkpoints: Checkpoints) -> None:
    file = checkpoints("open_clip") / "open_clip_model.safetensors"
    with pytest.raises(ValueError, match=r"are missing: visual\.transformer\.resblocks\.3\.ln_1\.weight"):
        OpenClipEncoder.build(OpenClipSpec(model="ViT-S-32-alt", checkpoint=file), Loading())
    with pytest.raises(ValueError, match=r"do not fit the model: visual\.class_embedding \(32,\) for \(384,\)"):
        OpenClipEncoder.build(OpenClipSpec(model="ViT-S-32-alt", checkpoint=file, select_layer=1), Loading())


@pytest.mark.parametrize(
    "fields", [{}, {"pretrained": "openai"}, {"checkpoint": "w.safetensors"}, {"checkpoint": "f", "pretrained": "x"}]
)
def test_the_spec_needs_a_model(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="name the model"):
        OpenClipSpec(**fields)
