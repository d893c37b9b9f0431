"""Pixel shuffle against InternVL's and Idefics3's, pooling against torch's; grids that cannot be divided."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import InternVLConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector

from lensmith import ConnectorSpec, IncompatibleParts, VisionShape
from lensmith_plugins.connectors.grid_specs import PixelShuffleSpec, PoolSpec
from lensmith_plugins.connectors.pixel_shuffle import PixelShuffleConnector
from lensmith_plugins.connectors.pool import PoolConnector

ENCODER = VisionShape((84, 56), (6, 4), 12)


@torch.no_grad()
def test_pixel_shuffle_is_internvls() -> None:
    vision = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    text = {"model_type": "llama", "hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    projector = InternVLMultiModalProjector(InternVLConfig(vision_config=vision, text_config=text))
    projector.layer_norm.weight.uniform_()
    projector.layer_norm.bias.normal_()
    connector = PixelShuffleConnector.build(PixelShuffleSpec(), ENCODER, 20)
    names = {"layer_norm": "norm", "linear_1": "0", "linear_2": "2"}
    state = {f"{names[k.partition('.')[0]]}.{k.partition('.')[2]}": v for k, v in projector.state_dict().items()}
    connector.load_state_dict(state, strict=True)
    features = torch.randn(2, 24, 12)
    shuffled = InternVLModel.pixel_shuffle(None, features.view(2, 6, 4, 12), scale_factor=0.5)
    torch.testing.assert_close(connector(features), projector(shuffled.reshape(2, 6, 48)))


@torch.no_grad()
@pytest.mark.parametrize("factor", [2, 3])
def test_the_order_within_a_token_is_idefics3s_too(factor: int) -> None:
    connector = PixelShuffleConnector.build(
        PixelShuffleSpec(factor=factor, depth=1, input_norm=False), VisionShape((84, 84), (6, 6), 12), 20
    )
    features = torch.randn(2, 36, 12)
    shuffled = Idefics3Connector.pixel_shuffle(None, features, scale_factor=factor)
    weights = connector.state_dict()
    torch.testing.assert_close(connector(features), F.linear(shuffled, weights["0.weight"], weights["0.bias"]))


def test_neighbours_become_one_token_row_by_row() -> None:
    encoder = VisionShape((28, 56), (2, 4), 1)
    connector = PixelShuffleConnector.build(PixelShuffleSpec(depth=1, input_norm=False), encoder, 4)
    connector.load_state_dict({"0.weight": torch.eye(4), "0.bias": torch.zeros(4)})
    grid = torch.arange(8.0).view(1, 8, 1)  # 0 1 2 3 above 4 5 6 7
    assert connector(grid).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]]


@torch.no_grad()
@pytest.mark.parametrize(
    ("fields", "kernel"),
    [({}, (2, 2)), ({"factor": 2}, (2, 2)), ({"grid": (2, 4)}, (3, 1)), ({"grid": (6, 1)}, (1, 4))],
)
def test_pooling_is_torchs(fields: dict[str, Any], kernel: tuple[int, int]) -> None:
    connector = PoolConnector.build(PoolSpec(**fields), ENCODER, 20)
    features = torch.randn(2, 24, 12)
    as_map = features.transpose(1, 2).reshape(2, 12, 6, 4)
    pooled = F.avg_pool2d(as_map, kernel)
    assert pooled.shape[-2:] == connector.shape.grid
    torch.testing.assert_close(F.adaptive_avg_pool2d(as_map, connector.shape.grid), pooled)
    torch.testing.assert_close(connector(features), connector.layers(pooled.flatten(2).transpose(1, 2)))


@pytest.mark.parametrize("kind", [PixelShuffleConnector, PoolConnector])
def test_fresh_weights_can_be_calibrated(kind: Any) -> None:
    encoder = VisionShape((112, 112), (8, 8), 32)
    spec_class = {PixelShuffleConnector: PixelShuffleSpec, PoolConnector: PoolSpec}[kind]
    connector = kind.build(spec_class(output_scale="embeddings", factor=1), encoder, 64)
    connector.calibrate(0.02 * torch.randn(500, 64))
    assert connector(torch.randn(8, 64, 32)).std().item() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize(
    ("spec", "encoder", "message"),
    [
        (
            PixelShuffleSpec(),
            VisionShape((42, 126), (3, 9), 12),
            r"the pixel_shuffle connector cannot divide the vision encoder's grid of 3 x 9 tokens by factor 2;"
            r" set `factor` to 1 or 3, or choose an encoder",
        ),
        (PoolSpec(factor=4), ENCODER, r"the pool connector cannot divide .* by factor 4; set `factor` to 1 or 2,"),
        (
            PoolSpec(grid=(4, 3)),
            ENCODER,
            r"grid of 6 x 4 tokens to 4 x 3, as blocks must be equal; set `grid` to rows of 1, 2, 3 or 6 and columns of"
            r" 1, 2 or 4",
        ),
        (PoolSpec(factor=1), VisionShape((28, 28), (2, 2), 12, extra_tokens=1), r"`cls_token: false`"),
        (PixelShuffleSpec(), VisionShape((28, 28), (2, 2), 12, extra_tokens=1), r"gives 1 more beside it"),
    ],
)
def test_grids_that_do_not_fit(spec: ConnectorSpec, encoder: VisionShape, message: str) -> None:
    with pytest.raises(IncompatibleParts, match=message):
        spec.shape(encoder, 20)


def test_one_way_to_say_the_size() -> None:
    with pytest.raises(ValueError, match="give a factor or a grid, not both"):
        PoolSpec(factor=2, grid=(2, 2))
