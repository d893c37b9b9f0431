"""Whole models whose rows lie end to end learn what they learn from padded rows, whatever the language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lensmith.assembly import assemble
from lensmith.data.batch import Batch, collate, pack
from lensmith.data.rows import parse_row
from lensmith.data.sample import Sample, encode_row, expand
from lensmith.model import MultimodalModel
from lensmith_plugins.language_models import segments

# Architectures whose attention cannot be chosen (or not by SDPA) or that counts from the padding mask.
MASKED = {"gemma2": "eager", "falcon": "sdpa", "falcon-grouped": "sdpa"}
ALIBI = {"bloom": "eager", "falcon-alibi": "sdpa"}
SEGMENTED = [
    "llama",
    "llama-tied",
    "mistral",  # with a window that is shorter than its rows, as qwen2, phi3 and gemma3 have
    "qwen2",
    "qwen3",
    "smollm3",
    "phi",
    "phi3",
    "gemma",
    "gemma3_text",
    "cohere",
    "granite",
    "stablelm",
    "gpt_neox",
    "gpt2",
    "opt",
]


@pytest.fixture
def composed(
    tmp_path: Path, write_model: Callable[..., Path], bytelevel_folder: Path, tiny_encoder: Path
) -> Callable[..., MultimodalModel]:
    def compose(architecture: str, attention: str = "sdpa") -> MultimodalModel:
        language = write_model(tmp_path / "language", architecture)
        parts = {
            "vision_encoder": {"name": "clip", "checkpoint": str(tiny_encoder)},
            "image_splitter": "pad",
            "connector": "mlp",
            "language_model": {
                "name": "hf_causal",
                "checkpoint": str(language),
                "tokenizer": str(bytelevel_folder),
                "attention": attention,
            },
            "conversation": "chatml",
        }
        return assemble({"model": parts}).requires_grad_(True)

    return compose


def samples(model: MultimodalModel) -> list[Sample]:
    """A picture, text alone, two pictures, text alone again."""
    tokenizer = model.language_model.tokenizer
    made = []
    for texts, colors in (
        (["<image>\nWhat color is the bus?", "red"], ["red"]),
        (["Write python.", "return sum(x)"], []),
        (["<image> or <image>?", "The bus is red.", "And the dog?", "a cat"], ["blue", "green"]),
        (["Hi", "12345"], []),
    ):
        turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
        row = parse_row({"image": [f"{c}.png" for c in colors], "conversations": turns}, number=0, placement="keep")
        pictures = [model.pictures.prepare(Image.new("RGB", (30, 20), color)) for color in colors]
        made.append(expand("row", encode_row(row, model.conversation, tokenizer), pictures, tokenizer.pad_id))
    return made


def learnt(model: MultimodalModel, batch: Batch) -> dict[str, torch.Tensor]:
    """Mean loss and its gradients."""
    model.zero_grad(set_to_none=True)
    loss = model(batch) / batch.target_count
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Of a tensor as a whole: what is next to nothing is the rounding of sums in another order.
        scale = max(float(value.abs().max()), 1e-3)
        torch.testing.assert_close(
            found[name] / scale, value / scale, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("architecture", [*SEGMENTED, *MASKED, *ALIBI])
def test_packed_rows_teach_what_padded_rows_do(
    composed: Callable[..., MultimodalModel], monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    model = composed(architecture, (MASKED | ALIBI).get(architecture, "sdpa"))
    rows, pad = samples(model), model.language_model.tokenizer.pad_id
    calls: list[int] = []

    def counted(whole: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def count(*args: Any) -> torch.Tensor:
            calls.append(len(args[3]) - 1)
            return whole(*args)

        return count

    for way in ("_one_by_one", "_side_by_side"):  # of samples that a window cuts, and of others
        monkeypatch.setattr(segments, way, counted(getattr(segments, way)))
    expected = learnt(model, collate(rows, pad))
    assert not calls
    assert sum(name.startswith(("vision_encoder", "connector", "language_model")) for name in expected) > 30
    assert_same(learnt(model, pack([rows], pad)), expected)
    assert calls == [4, 4] * (architecture in SEGMENTED)  # every layer, every sample alone
    assert_same(learnt(model, pack([rows[:1], rows[1:]], pad)), expected)  # the shorter row is padded

    obstacle = model.language_model.packing_obstacle()
    assert bool(obstacle) is (architecture not in SEGMENTED)
    assert ("all pairs of samples" in obstacle) is (architecture in MASKED)


def test_activations_that_are_computed_again(composed: Callable[..., MultimodalModel]) -> None:
    """The backward pass must know the borders that the forward pass had."""
    model = composed("mistral")
    rows, pad = samples(model), model.language_model.tokenizer.pad_id
    expected = learnt(model, pack([rows], pad))
    assert "language_model" in model.checkpoint_activations()
    model.train()
    assert_same(learnt(model, pack([rows], pad)), expected)


def test_what_a_kernel_must_agree_with() -> None:
    """Where there is no such kernel (this is the CPU's), samples are attended to one by one."""
    assert not segments._kernel_agrees(torch.device("cpu"), torch.bfloat16, 4, 2, 16, False)
    assert not segments._kernel_agrees(torch.device("cpu"), torch.float32, 4, 2, 16, False)


def test_scores_that_sdpa_cannot_shape_are_refused() -> None:
    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="set `attention: eager`"):
        segments.segment_attention(torch.nn.Module(), states, states, states, segments.borders([0, 2]), softcap=50.0)
