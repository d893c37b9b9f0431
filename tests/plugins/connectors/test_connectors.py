"""Linear, MLP and identity connectors: shapes, LLaVA's weights, scaling."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from lensmith import Connector, ConnectorSpec, IncompatibleParts, VisionShape
from lensmith.interfaces.module_shapes import parameter_shapes
from lensmith_plugins.connectors.identity import IdentityConnector
from lensmith_plugins.connectors.linear import LinearConnector
from lensmith_plugins.connectors.mlp import MlpConnector
from lensmith_plugins.connectors.specs import IdentitySpec, LinearSpec, MlpSpec

MODEL = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[3].parent / "shared")) / "golden" / "model"
golden = pytest.mark.skipif(not MODEL.is_dir(), reason=f"no recorded results at {MODEL} (LENSMITH_SHARED)")

ENCODER = VisionShape(image_size=(28, 28), grid=(2, 3), width=12)
WITH_CLS = VisionShape(image_size=(28, 28), grid=(2, 3), width=12, extra_tokens=1)
CASES: list[tuple[ConnectorSpec, type[Connector], int]] = [
    (LinearSpec(), LinearConnector, 20),
    (MlpSpec(), MlpConnector, 20),
    (MlpSpec(depth=1), MlpConnector, 20),
    (MlpSpec(depth=4, input_norm=True, activation="silu"), MlpConnector, 20),
    (IdentitySpec(), IdentityConnector, 12),
]


@pytest.mark.parametrize(("spec", "kind", "width"), CASES)
def test_the_closed_form_is_the_module(spec: ConnectorSpec, kind: type[Connector], width: int) -> None:
    shape = spec.shape(ENCODER, width)
    connector = kind.build(spec, ENCODER, width)
    assert connector.shape == shape
    assert parameter_shapes(connector) == shape.parameters
    assert (shape.tokens, shape.width, shape.grid) == (6, width, (2, 3))
    features = torch.randn(3, 6, 12)
    out = connector(features)
    assert out.shape == (3, 6, width)
    assert connector.tokens_out(6) == 6
    # Each token on its own.
    torch.testing.assert_close(connector(features[1:2, 2:3]), out[1:2, 2:3])
    out.sum().backward() if shape.parameters else None
    assert all(parameter.grad is not None for parameter in connector.parameters())


@pytest.mark.parametrize(("spec", "kind", "width"), CASES)
def test_a_class_token_is_connected_but_lies_on_no_grid(spec: ConnectorSpec, kind: type[Connector], width: int) -> None:
    shape = spec.shape(WITH_CLS, width)
    assert (shape.tokens, shape.grid) == (7, None)


def test_identity_refuses_other_widths() -> None:
    with pytest.raises(IncompatibleParts, match=r"width 12 to a language model of width 20; use a linear or mlp"):
        IdentitySpec().shape(ENCODER, 20)
    features = torch.randn(1, 6, 12)
    assert IdentityConnector.build(IdentitySpec(), ENCODER, 12)(features) is features


def llava_weights(name: str) -> dict[str, torch.Tensor]:
    weights = load_file(MODEL / f"mm_projector_{name}.safetensors")
    return {key.removeprefix("model.mm_projector."): tensor for key, tensor in weights.items()}


@golden
def test_llavas_linear_projector_is_a_plain_rename() -> None:
    weights = llava_weights("linear")
    connector = LinearConnector.build(LinearSpec(), VisionShape((56, 56), (4, 4), 48), 32)
    connector.load_state_dict(weights, strict=True)
    features = torch.randn(2, 16, 48)
    torch.testing.assert_close(connector(features), features @ weights["weight"].T + weights["bias"])


@golden
def test_llavas_mlp2x_gelu_projector_is_a_plain_rename() -> None:
    weights = llava_weights("mlp2x_gelu")
    connector = MlpConnector.build(MlpSpec(), VisionShape((56, 56), (4, 4), 48), 32)
    connector.load_state_dict(weights, strict=True)
    features = torch.randn(2, 16, 48)
    inner = features @ weights["0.weight"].T + weights["0.bias"]
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))  # the exact gelu
    torch.testing.assert_close(connector(features), inner @ weights["2.weight"].T + weights["2.bias"])


@golden
def test_deeper_projectors_have_llavas_names() -> None:
    names = json.loads((MODEL / "meta.json").read_text())["mlp3x_gelu_projector_keys"]
    connector = MlpConnector.build(MlpSpec(depth=3), VisionShape((56, 56), (4, 4), 48), 32)
    assert {name: list(tensor.shape) for name, tensor in connector.state_dict().items()} == names


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("gelu", F.gelu),
        ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("relu", F.relu),
        ("silu", F.silu),
    ],
)
def test_activations_and_norm(activation: Any, function: Any) -> None:
    connector = MlpConnector.build(MlpSpec(activation=activation, input_norm=True), ENCODER, 20)
    w = connector.state_dict()
    features = 5 + 3 * torch.randn(2, 6, 12)
    inner = function(F.linear(F.layer_norm(features, (12,)), w["0.weight"], w["0.bias"]))
    torch.testing.assert_close(connector(features), F.linear(inner, w["2.weight"], w["2.bias"]))


def test_initialisation_is_torchs() -> None:
    torch.manual_seed(5)
    linear, mlp = LinearConnector.build(LinearSpec(), ENCODER, 20), MlpConnector.build(MlpSpec(), ENCODER, 20)
    torch.manual_seed(5)
    layers = [nn.Linear(12, 20), nn.Linear(12, 20), nn.Linear(20, 20)]
    assert torch.equal(linear.weight, layers[0].weight)
    assert torch.equal(linear.bias, layers[0].bias)
    assert torch.equal(mlp.state_dict()["0.weight"], layers[1].weight)
    assert torch.equal(mlp.state_dict()["2.bias"], layers[2].bias)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("input_norm", [False, True])
def test_calibrated_outputs_spread_like_the_embeddings(depth: int, input_norm: bool) -> None:
    encoder = VisionShape((28, 28), (4, 4), 64)
    spec = MlpSpec(depth=depth, input_norm=input_norm, output_scale="embeddings")
    connector = MlpConnector.build(spec, encoder, 96)
    names = list(connector.state_dict())
    embeddings = 0.02 * torch.randn(500, 96)
    before = torch.get_rng_state()
    connector.calibrate(embeddings)
    assert torch.equal(before, torch.get_rng_state())
    features = torch.randn(8, 16, 64)
    assert connector(features).std().item() == pytest.approx(0.02, rel=0.1)
    assert list(connector.state_dict()) == names


def test_without_output_scale_weights_are_left_alone() -> None:
    connector = MlpConnector.build(MlpSpec(), ENCODER, 20)
    before = {name: tensor.clone() for name, tensor in connector.state_dict().items()}
    connector.calibrate(0.02 * torch.randn(50, 20))
    assert all(torch.equal(tensor, before[name]) for name, tensor in connector.state_dict().items())


@pytest.mark.parametrize("fields", [{"depth": 0}, {"activation": "tanh"}, {"output_scale": "unit"}, {"width": 3}])
def test_the_spec_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        MlpSpec.model_validate(fields)
