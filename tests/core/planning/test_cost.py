"""The closed forms of cost: against numbers worked out by hand, torch's own FLOP counter and published hours."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensmith.dims import join
from lensmith.interfaces.shapes import LanguageShape, ParameterShape, VisionShape
from lensmith.planning.cost import memory, numel, training_flops
from lensmith.spec import load_spec
from lensmith_plugins.tuners.specs import FrozenSpec

# One layer of 6 x 4 = 24 linear weights, 2 heads of 2 channels, and a head of 5 x 4 = 20 weights.
LANGUAGE = LanguageShape(
    width=4,
    vocabulary=5,
    context_length=16,
    layers=1,
    heads=2,
    kv_heads=2,
    head_width=2,
    intermediate=6,
    parameters=(
        ParameterShape("embed.weight", (5, 4)),
        ParameterShape("up.weight", (6, 4), linear=True),
        ParameterShape("norm.weight", (4,)),
        ParameterShape("head.weight", (5, 4), linear=True),
    ),
    head="head.weight",
)
ENCODER = VisionShape(image_size=(28, 28), grid=(2, 2), width=8, flops_per_view=1000)
# A row of 3 positions: 2 x 24 x 3 for the layer, 2 x 1 x 3 x 3 x 4 for causal attention, 2 x 20 x 3 for the head.
LINEAR, ATTENTION, HEAD = 144.0, 72.0, 120.0


def _row(**kwargs: Any) -> float:
    arguments = {"positions": 3, "views": 0, "adapters": 0, "full": False} | kwargs
    return training_flops(LANGUAGE, ENCODER, **arguments)


def test_full_tuning_costs_three_forwards() -> None:
    assert _row(full=True) == 3 * (LINEAR + ATTENTION + HEAD)


def test_frozen_weights_have_no_gradient_of_their_own_but_attention_has_two_factors() -> None:
    assert _row() == 2 * LINEAR + 3 * ATTENTION + 2 * HEAD


def test_adapters_cost_six_flops_a_weight_and_position() -> None:
    assert _row(adapters=10) - _row() == 6 * 10 * 3


def test_checkpointing_adds_a_forward_of_the_layers_alone() -> None:
    assert _row(full=True, recompute=True) - _row(full=True) == LINEAR + ATTENTION


@pytest.mark.parametrize(("trains", "forwards"), [(False, 1), (True, 3)])
def test_each_view_costs_the_encoder(trains: bool, forwards: int) -> None:
    assert _row(views=2, encoder_trains=trains) - _row() == 2 * 1000 * forwards


PARTS = {
    "connector": (ParameterShape("weight", (10, 10), linear=True),),
    "language_model": (ParameterShape("embed", (10, 20)), ParameterShape("layer", (70, 10), linear=True)),
}


@pytest.mark.parametrize(
    ("zero", "weights", "gradients", "optimizer"),
    [(0, 2000, 200, 1200), (1, 2000, 200, 150), (2, 2000, 25, 150), (3, 250, 25, 150)],
)
def test_memory_of_a_thousand_weights_of_which_a_hundred_train_on_eight_gpus(
    zero: int, weights: float, gradients: float, optimizer: float
) -> None:
    needed = memory(FrozenSpec(), PARTS, zero=zero, world=8, bytes_per_weight=2.0)
    assert (needed.weights, needed.gradients, needed.optimizer) == (weights, gradients, optimizer)
    assert needed.total == weights + gradients + optimizer


def test_memory_in_fp32_doubles_weights_and_gradients_alone() -> None:
    needed = memory(FrozenSpec(), PARTS, zero=0, world=8, bytes_per_weight=4.0)
    assert (needed.weights, needed.gradients, needed.optimizer) == (4000, 400, 1200)


@pytest.mark.parametrize("tuning", ["full", "frozen", "lora"])
def test_a_real_decoder_costs_what_the_form_says(tuning: str) -> None:
    """torch counts the products that really run, on a grouped-query LLaMA."""
    import peft
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    from lensmith_plugins.language_models.shapes import language_shape

    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    network = LlamaForCausalLM(config).requires_grad_(tuning == "full")
    adapters = 0
    if tuning == "lora":
        layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        peft.inject_adapter_in_model(peft.LoraConfig(r=3, target_modules=layers), network)
        adapters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    positions = 24
    embeds = torch.randn(1, positions, 32, requires_grad=True)  # as from a connector that trains
    counter = FlopCounterMode(display=False)
    with counter:
        network(inputs_embeds=embeds).logits.sum().backward()

    shape = language_shape(config.to_dict())
    assert shape is not None
    expected = training_flops(shape, ENCODER, positions=positions, views=0, adapters=adapters, full=tuning == "full")
    # Eager attention computes the masked half too: one forward and two backward products more.
    expected += 3 * (2 * shape.layers * positions**2 * shape.heads * shape.head_width)
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)  # less the angles of rotary positions


def test_ratios_follow_published_hours() -> None:
    """The scaling study's table 4 with one free scale, every model and tuner in order."""
    script = Path(__file__).parents[3] / "benchmarks" / "cost" / "run.py"
    run = subprocess.run([sys.executable, script, "--json"], capture_output=True, text=True, check=True)
    study = json.loads(run.stdout)["study"]
    assert study["mean"] <= 0.05  # measured: 0.044
    assert study["worst"] <= 0.12  # measured: 0.111, 13B with LoRA
    assert study["inversions"] == []


def test_adapters_follow_the_closed_form_of_the_study(llava: Any) -> None:
    """Rank r on all linear layers: L r (8 h + 3 (h + i))."""
    spec = load_spec(
        {
            "model": llava("65b"),
            "stages": {"tune": {"tuner": {"name": "lora", "rank": 64}, "data": {"sources": "rows.json"}}},
        }
    )
    dimensions = join(spec.model)
    trained = spec.stages["tune"].tuner.trainable(dimensions.parameters())
    adapters = numel(tuple(p for p in trained if p.name.startswith("language_model.")))
    assert adapters == 80 * 64 * (8 * 8192 + 3 * (8192 + 22016)) == 799_539_200


def test_tied_heads_are_counted_once() -> None:
    """A tied head is the embedding's tensor: it is no linear layer, and its product is still paid."""
    tied = replace(LANGUAGE, parameters=LANGUAGE.parameters[:3], head="embed.weight")
    assert training_flops(tied, ENCODER, positions=3, views=0, adapters=0, full=True) == _row(full=True)
