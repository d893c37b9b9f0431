"""What holds for every connector: its shape is its module's, views do not mix, weights survive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lensmith import Connector, ConnectorSpec, IncompatibleParts, Kind, VisionShape, parameter_shapes
from lensmith_plugins.connectors import lensmith_components

WIDTH = 20
ENCODERS = {
    "even": VisionShape((56, 56), (4, 4), 12),
    "odd": VisionShape((42, 126), (3, 9), 12),
    "tall": VisionShape((84, 28), (6, 2), 12),
    "class": VisionShape((28, 42), (2, 3), 12, extra_tokens=1),
}
CASES: dict[str, tuple[str, dict[str, object], dict[str, tuple[int, tuple[int, int] | None] | None]]] = {
    # (name, fields, tokens and grid for each encoder; None where it is refused)
    "linear": ("linear", {}, {"even": (16, (4, 4)), "odd": (27, (3, 9)), "tall": (12, (6, 2)), "class": (7, None)}),
    "mlp": (
        "mlp",
        {"depth": 3, "input_norm": True},
        {"even": (16, (4, 4)), "odd": (27, (3, 9)), "tall": (12, (6, 2)), "class": (7, None)},
    ),
    "shuffle": ("pixel_shuffle", {}, {"even": (4, (2, 2)), "odd": None, "tall": (3, (3, 1)), "class": None}),
    "shuffle3": (
        "pixel_shuffle",
        {"factor": 3, "input_norm": False, "depth": 1},
        {"even": None, "odd": (3, (1, 3)), "tall": None, "class": None},
    ),
    "pool": ("pool", {}, {"even": (4, (2, 2)), "odd": None, "tall": (3, (3, 1)), "class": None}),
    "pool_grid": (
        "pool",
        {"grid": [1, 1], "input_norm": True},
        {"even": (1, (1, 1)), "odd": (1, (1, 1)), "tall": (1, (1, 1)), "class": None},
    ),
    "pool_stripes": ("pool", {"grid": [3, 1]}, {"even": None, "odd": (3, (3, 1)), "tall": (3, (3, 1)), "class": None}),
    "perceiver": (
        "perceiver",
        {"latents": 5, "depth": 2, "heads": 3, "ff_mult": 2},
        dict.fromkeys(ENCODERS, (5, None)),
    ),
    "perceiver_heads": (
        "perceiver",
        {"latents": 1, "depth": 1, "heads": 5, "head_width": 7, "activation": "gelu"},
        dict.fromkeys(ENCODERS, (1, None)),
    ),
    "qformer": (
        "qformer",
        {"queries": 3, "layers": 3, "width": 24, "heads": 2},
        dict.fromkeys(ENCODERS, (3, None)),
    ),
}
COMPONENTS = {component.name: component for component in lensmith_components()}
Made = Callable[[str, str], tuple[ConnectorSpec, Connector]]


def spec_of(case: str) -> ConnectorSpec:
    name, fields, _ = CASES[case]
    spec = COMPONENTS[name].spec.model_validate(fields)
    assert isinstance(spec, ConnectorSpec)
    return spec


def build(case: str, encoder: str) -> Connector:
    connector = COMPONENTS[CASES[case][0]].load().build(spec_of(case), ENCODERS[encoder], WIDTH)
    assert isinstance(connector, Connector)
    return connector.eval()


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("case", CASES)
def test_the_shape_is_the_modules(case: str, encoder: str) -> None:
    expected, vision = CASES[case][2][encoder], ENCODERS[encoder]
    if expected is None:
        with pytest.raises(IncompatibleParts):
            spec_of(case).shape(vision, WIDTH)
        return
    shape, connector = spec_of(case).shape(vision, WIDTH), build(case, encoder)
    assert (shape.tokens, shape.grid, shape.width) == (*expected, WIDTH)
    assert connector.shape == shape
    assert parameter_shapes(connector) == shape.parameters
    assert connector.tokens_out(vision.tokens) == shape.tokens
    assert not shape.reads_instruction
    features = torch.randn(3, vision.tokens, vision.width)
    out = connector(features)
    assert out.shape == (3, shape.tokens, WIDTH)
    for number in range(3):  # views do not see each other
        torch.testing.assert_close(connector(features[number : number + 1])[0], out[number], rtol=1e-5, atol=1e-6)
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in connector.named_parameters():
        assert parameter.grad is not None, name
        # A key's bias moves all scores alike, so its true gradient is nothing.
        assert parameter.grad.abs().sum() > 0 or name.endswith("key.bias"), name


@pytest.mark.parametrize("case", CASES)
def test_weights_survive_a_file(case: str, tmp_path: Path) -> None:
    encoder = next(name for name, expected in CASES[case][2].items() if expected is not None)
    one, other = build(case, encoder), build(case, encoder)
    features = torch.randn(2, ENCODERS[encoder].tokens, 12)
    assert not torch.equal(one(features), other(features))
    save_file(one.state_dict(), tmp_path / "connector.safetensors")
    other.load_state_dict(load_file(tmp_path / "connector.safetensors"), strict=True)
    assert torch.equal(one(features), other(features))
    half = one.to(torch.bfloat16)(features.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), other(features), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_record_has_a_paper_and_an_example_that_is_valid(name: str) -> None:
    component = COMPONENTS[name]
    example = yaml.safe_load(component.example)
    assert component.kind is Kind.CONNECTOR
    assert component.paper
    assert example.pop("name") == name
    component.spec.model_validate(example)
