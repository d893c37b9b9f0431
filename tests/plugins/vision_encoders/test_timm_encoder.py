"""The timm encoder on small real models with random weights."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lensmith import LensmithError, Loading, VisionEncoder
from lensmith_plugins.compat import torch as compat
from lensmith_plugins.vision_encoders.specs import TimmSpec
from lensmith_plugins.vision_encoders.timm_features import TimmEncoder

LITE = "tf_efficientnet_lite0"


def build(**fields: Any) -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder.build(TimmSpec(**fields), Loading()).eval()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def weights_of(model: str, folder: Path, **options: Any) -> Path:
    """A whole model of timm with its head, and batch-norm statistics that are not those of a fresh one."""
    torch.manual_seed(3)
    network = timm.create_model(model, **options)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    save_file(network.state_dict(), folder / f"{model}.safetensors")
    return folder / f"{model}.safetensors"


@pytest.mark.parametrize(
    ("fields", "grid", "width"),
    [
        ({}, (4, 4), 320),
        ({"levels": [2, 3]}, (8, 8), 40 + 112),
        ({"levels": [3, -1], "grid": 4}, (4, 4), 112 + 320),
        ({"levels": [1], "grid": 5}, (5, 5), 24),
        ({"levels": [3], "grid": 1, "normalize": True}, (1, 1), 112),
    ],
)
def test_grid_and_width(pixels: Tensor, fields: dict[str, Any], grid: tuple[int, int], width: int) -> None:
    encoder = build(model=LITE, image_size=128, **fields)
    assert (encoder.shape.grid, encoder.shape.width, encoder.shape.image_size) == (grid, width, (128, 128))
    with torch.no_grad():
        assert encoder(pixels).shape == (2, encoder.shape.tokens, width)


def test_features_are_those_of_timm_with_its_weights(tmp_path: Path, pixels: Tensor) -> None:
    file = weights_of(LITE, tmp_path)
    plain = timm.create_model(LITE, features_only=True, out_indices=(2, 3)).eval()
    plain.load_state_dict(load_file(file), strict=False)
    encoder = build(model=LITE, image_size=128, levels=[2, 3], checkpoint=file)
    with torch.no_grad():
        fine, coarse = plain(pixels)
        pooled = torch.cat([F.adaptive_avg_pool2d(fine, 8), coarse], dim=1)
        torch.testing.assert_close(encoder(pixels), pooled.flatten(2).mT, rtol=0, atol=1e-6)


def test_normalized_levels_weigh_the_same(pixels: Tensor) -> None:
    features = build(model=LITE, image_size=128, levels=[2, 3], normalize=True)(pixels)
    for level in features.split([40, 112], dim=-1):
        torch.testing.assert_close(level.mean(-1), torch.zeros(2, 64), rtol=0, atol=1e-5)
        torch.testing.assert_close(level.var(-1, correction=0), torch.ones(2, 64), rtol=0, atol=2e-2)


FAMILIES: dict[str, tuple[int, tuple[int, int], int]] = {
    # the smallest of each family: levels, grid of the last level at 64 pixels, its width
    "test_vit3": (9, (4, 4), 96),
    "test_vit4": (9, (4, 4), 96),
    "test_convnext2": (4, (2, 2), 128),
    "convnext_atto": (4, (2, 2), 320),
    "resnet10t": (5, (2, 2), 512),
    "test_efficientnet": (5, (2, 2), 64),
    "eva02_tiny_patch14_224": (12, (4, 4), 192),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    """Tokens are the maps of timm's own model, prefix tokens left out, each level counted as timm counts."""
    levels, grid, width = FAMILIES[name]
    encoder = build(model=name, image_size=64, levels=[-2, -1], grid=grid[0])
    assert encoder.shape.grid == grid
    pixels = torch.randn(2, 3, 64, 64)
    options = {"img_size": 64} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    whole = timm.create_model(name, **options).eval()
    assert len(whole.feature_info) == levels
    missing = whole.load_state_dict(encoder.network.state_dict(), strict=False)
    assert not missing.unexpected_keys
    with torch.no_grad():
        maps = whole.forward_intermediates(pixels, indices=[levels - 2, levels - 1], intermediates_only=True)
        tokens = encoder(pixels)
    assert maps[-1].shape == (2, width, *grid)
    assert tokens.shape == (2, grid[0] * grid[1], width + maps[0].shape[1])
    torch.testing.assert_close(tokens[..., -width:], maps[-1].flatten(2).mT, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size"), [("test_vit2", 64), ("eva02_tiny_patch14_224", 56), ("vit_small_patch14_reg4_dinov2", 56)]
)
def test_a_level_of_a_transformer_is_a_hidden_state(name: str, size: int) -> None:
    """Level -2 is LLaVA's layer -2: what the last block but one gives, without class and register tokens."""
    encoder = build(model=name, image_size=size, levels=[-2])
    whole = timm.create_model(name, img_size=size).eval()
    whole.load_state_dict(encoder.network.state_dict(), strict=False)
    assert len(encoder.network.blocks) == len(whole.blocks) - 1  # type: ignore[arg-type]
    made: list[Tensor] = []
    whole.blocks[-2].register_forward_hook(lambda _, __, output: made.append(output))
    pixels = torch.randn(1, 3, size, size)
    with torch.no_grad():
        whole.forward_features(pixels)
        torch.testing.assert_close(encoder(pixels), made[0][:, whole.num_prefix_tokens :], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [LITE, "test_resnet", "test_convnext", "test_vit", "eva02_tiny_patch14_224"])
def test_layers_past_the_last_level_are_not_built(name: str) -> None:
    encoder = build(model=name, levels=[1])
    whole = timm.create_model(name)
    names = {parameter.removeprefix("network.") for parameter, _ in encoder.named_parameters()}
    assert names < {parameter for parameter, _ in whole.named_parameters()}
    encoder(torch.randn(1, 3, *encoder.shape.image_size)).square().sum().backward()
    assert [parameter for parameter, p in encoder.named_parameters() if p.grad is None] == []


def test_transformers_give_grids_too() -> None:
    encoder = build(model="test_vit", levels=[-2], image_size=64)
    assert encoder.shape.grid == (4, 4)
    assert len(encoder.network.blocks) == 5  # type: ignore[arg-type]
    pixels = torch.randn(2, 3, 64, 64)
    whole = timm.create_model("test_vit", img_size=64).eval()
    whole.load_state_dict(encoder.network.state_dict(), strict=False)
    with torch.no_grad():
        tokens = whole.forward_intermediates(pixels, indices=[4], output_fmt="NLC", intermediates_only=True)[0]
        torch.testing.assert_close(encoder(pixels), tokens, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "fields", [{"model": LITE, "levels": [2, 3], "image_size": 128}, {"model": "test_vit"}, {"model": "pit_ti_224"}]
)
def test_measuring_on_the_meta_device_is_building(fields: dict[str, Any]) -> None:
    spec = TimmSpec(**fields)
    measured = VisionEncoder.measure.__func__(TimmEncoder, spec)  # type: ignore[attr-defined]
    assert measured == TimmEncoder.measure(spec) == build(**fields).shape
    assert spec.shape() is None
    assert measured.flops_per_view > 1e6
    assert sum(tensor.numel for tensor in measured.parameters) > 1e5


def test_V1_operations_are_counted_whatever_kernel_attention_takes() -> None:
    """By hand: a patch projection, then per block QKV, output, MLP and the two products of attention."""
    shape = TimmEncoder.measure(TimmSpec(model="test_vit"))
    network = timm.create_model("test_vit")
    tokens, width, blocks = shape.tokens + network.num_prefix_tokens, shape.width, len(network.blocks)
    per_block = tokens * (3 + 1) * width**2 + 2 * tokens**2 * width
    per_block += sum(tokens * layer.weight.numel() for layer in (network.blocks[0].mlp.fc1, network.blocks[0].mlp.fc2))
    patches = shape.tokens * network.patch_embed.proj.weight.numel()
    assert shape.flops_per_view == 2 * (patches + blocks * per_block)


def test_V1_a_counter_that_leaves_something_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.FlopCounterMode, "get_total_flops", lambda self: 1)
    monkeypatch.setattr(compat, "_probed", False)
    with pytest.raises(LensmithError, match=r"^torch \S+ \(.*tested.*\): its counter of operations finds"):
        TimmEncoder.measure(TimmSpec(model="test_vit"))


def test_a_model_that_cannot_be_built_on_meta_is_measured_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unmeasurable(timm.models.resnet.ResNet):  # type: ignore[name-defined, misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.rate = float(torch.ones(1))  # meta tensors have no values

    monkeypatch.setattr(timm.models.resnet, "ResNet", Unmeasurable)
    with pytest.raises(RuntimeError, match="meta"):
        VisionEncoder.measure.__func__(TimmEncoder, TimmSpec(model="test_resnet"))  # type: ignore[attr-defined]
    assert TimmEncoder.measure(TimmSpec(model="test_resnet")).grid == (5, 5)


def test_missing_tensors_are_named_and_counters_are_not_needed(tmp_path: Path) -> None:
    file = weights_of("test_resnet", tmp_path)
    weights = {n: t for n, t in load_file(file).items() if not n.endswith("num_batches_tracked")}
    save_file(weights, file)
    build(model="test_resnet", checkpoint=file)
    del weights["layer2.0.bn1.running_mean"]
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"are missing: layer2\.0\.bn1\.running_mean$"):
        build(model="test_resnet", checkpoint=file)
    build(model="test_resnet", levels=[1], checkpoint=file)  # not needed there
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors does not exist"):
        build(model="test_resnet", checkpoint=tmp_path / "gone.safetensors")


def test_a_file_that_is_not_safetensors_is_told(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth is no readable \.safetensors file"):
        build(model="test_resnet", checkpoint=tmp_path / "weights.pth")


def test_weights_of_another_size_are_named(tmp_path: Path) -> None:
    file = weights_of("test_vit", tmp_path)
    with pytest.raises(ValueError, match=r"at this image_size: pos_embed \(1, 101, 64\) for \(1, 17, 64\)$"):
        build(model="test_vit", checkpoint=file, image_size=64)


def test_a_saved_encoder_loads_again(tmp_path: Path, pixels: Tensor) -> None:
    file = weights_of(LITE, tmp_path)
    spec = TimmSpec(model=LITE, levels=[2, 3], image_size=128, checkpoint=file)
    encoder = TimmEncoder.build(spec, Loading()).eval()
    gathered = {name: parameter.detach() + 0.01 for name, parameter in encoder.named_parameters()}
    for name, state in (("own", None), ("gathered", gathered)):
        (tmp_path / name).mkdir()
        encoder.save(tmp_path / name, state)
    with torch.no_grad():
        again = TimmEncoder.build(spec.relocated(tmp_path / "own"), Loading()).eval()
        torch.testing.assert_close(again(pixels), encoder(pixels), rtol=0, atol=0)
        encoder.load_state_dict(gathered, strict=False)
        again = TimmEncoder.build(spec.relocated(tmp_path / "gathered"), Loading()).eval()
        # The statistics are there too, though they were not gathered.
        torch.testing.assert_close(again(pixels), encoder(pixels), rtol=0, atol=0)


def test_where_weights_come_from(tmp_path: Path) -> None:
    random, ours = TimmSpec(model=LITE), TimmSpec(model=LITE, checkpoint=tmp_path / "w.safetensors")
    hub = TimmSpec(model=LITE, pretrained=True)
    assert [spec.fresh() for spec in (random, ours, hub)] == [True, False, False]
    assert [spec.sources() for spec in (random, ours, hub)] == [
        {},
        {"checkpoint": str(tmp_path / "w.safetensors")},
        {"pretrained": LITE},
    ]
    assert hub.relocated(tmp_path) == TimmSpec(model=LITE, checkpoint=tmp_path)


def test_statistics_of_a_frozen_encoder_do_not_move(pixels: Tensor) -> None:
    encoder = build(model=LITE, image_size=128)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    assert all(torch.equal(buffer, torch.zeros_like(buffer)) for n, buffer in before.items() if n.endswith("mean"))
    encoder.requires_grad_(False).train()
    encoder(pixels)
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())
    encoder.requires_grad_(True).train()
    encoder(pixels)
    assert not all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())


def test_dtype_follows_the_loading(pixels: Tensor) -> None:
    encoder = TimmEncoder.build(TimmSpec(model="test_resnet"), Loading(dtype=torch.bfloat16))
    assert encoder(pixels).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="cannot be loaded with quantization_config"):
        TimmEncoder.build(TimmSpec(model="test_resnet"), Loading(options={"quantization_config": None}))


def test_preprocessing_resizes_the_short_edge_and_crops() -> None:
    spec = TimmSpec(model=LITE, image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    preprocessing = TimmEncoder.preprocessing(spec)
    assert preprocessing.background == (127, 127, 127)
    picture = Image.new("RGB", (100, 50), (255, 0, 0))
    picture.paste((0, 0, 255), (25, 0, 75, 50))  # the centre square alone is blue
    pixels = pickle.loads(pickle.dumps(preprocessing))(picture)
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), torch.float32)
    assert pixels[2, :, 2:-2].min() == 1.0
    assert pixels[0, :, 2:-2].max() == -1.0
    closer = TimmEncoder.preprocessing(spec.model_copy(update={"crop_pct": 0.5}))(picture)
    assert closer[2].min() == 1.0
    assert preprocessing(Image.new("RGB", (1, 1))).shape == (3, 32, 32)


def test_preprocessing_defaults_to_timms_numbers() -> None:
    preprocessing = TimmEncoder.preprocessing(TimmSpec(model="test_vit"))
    settings = timm.get_pretrained_cfg("test_vit")
    assert preprocessing.background == tuple(int(mean * 255) for mean in settings.mean)
    assert preprocessing(Image.new("RGB", (9, 7))).shape == (3, 160, 160)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": "tf_eficientnet_lite0"},
            "has no model 'tf_eficientnet_lite0'; did you mean tf_efficientnet_lite0",
        ),
        ({"model": "resnet18.nope"}, r"Invalid pretrained tag \(nope\)"),
        ({"model": LITE, "levels": [5]}, r"levels 0 to 4 \(or -5 to -1 from the end\); it has no level 5"),
        ({"model": LITE, "levels": [3, 2]}, r"levels \[3, 2\] .* once, from fine to coarse"),
        ({"model": LITE, "levels": [4, -1]}, r"levels \[4, -1\] .* once"),
        ({"model": LITE, "levels": [3], "grid": 9, "image_size": 128}, r"grid 9 is finer .* at 128 pixels, 8 x 8"),
    ],
)
def test_mistakes_are_told_without_weights(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmEncoder.measure(TimmSpec(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"levels": []},
        {"grid": 0},
        {"crop_pct": 1.5},
        {"mean": [0.5]},
        {"interpolation": "area"},
        {"checkpoint": "w.safetensors", "pretrained": True},
    ],
)
def test_the_spec_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        TimmSpec(model=LITE, **fields)
