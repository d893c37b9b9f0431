"""A picture that a batch shows several times is encoded once, and learns from all of its places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lensmith.data.batch import Batch, pack
from lensmith.data.sample import Sample
from lensmith.model import MultimodalModel


@pytest.fixture
def batch(model: MultimodalModel, row: Callable[..., Sample], tmp_path: Path) -> Batch:
    for color in ("red", "blue"):
        Image.new("RGB", (40, 24), color).save(tmp_path / f"{color}.png")
    samples = [
        row("<image>\nWhat?", "red", colors=("red",)),
        row("<image><image>\nWhich?", "the second one", colors=("blue", "red")),
        row("Hi", "there"),
        row("<image>\nIs it?", "it is", colors=("blue",)),
    ]
    for sample, names in zip(samples, (["red"], ["blue", "red"], [], ["blue"]), strict=True):
        sample.pictures = [model.pictures.open(tmp_path, f"{name}.png") for name in names]
    return pack([samples], model.language_model.tokenizer.pad_id)


def apart(batch: Batch) -> Batch:
    """Every picture with pixels of its own."""
    assert batch.pixels is not None
    return replace(batch, pixels=batch.pixels[batch.repeats], repeats=None)


@pytest.mark.parametrize("trains", [True, False])
def test_the_same_loss_and_gradients(model: MultimodalModel, batch: Batch, trains: bool) -> None:
    model.vision_encoder.requires_grad_(trains)
    assert batch.pixels is not None
    assert len(batch.pixels) == 2
    found = []
    for shown in (batch, apart(batch)):
        model.zero_grad(set_to_none=True)
        loss = model(shown)
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    assert any(name.startswith("vision_encoder") for name in found[0][1]) is trains
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], gradient, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_it_is_encoded_once(model: MultimodalModel, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    model(batch)
    assert seen == [2]


def test_not_where_each_view_is_drawn(model: MultimodalModel, row: Callable[..., Sample], tmp_path: Path) -> None:
    """Augmentation makes another picture of the file each time."""
    Image.new("RGB", (40, 24), "red").save(tmp_path / "red.png")
    sample = row("<image><image>\nWhich?", "both", colors=("red", "red"))
    for drawn in (False, True):
        pictures = replace(model.pictures, drawn=drawn)
        sample.pictures = [pictures.open(tmp_path, "red.png") for _ in range(2)]
        shown = pack([[sample]], model.language_model.tokenizer.pad_id)
        assert shown.pixels is not None
        assert (len(shown.pixels), shown.repeats is None) == ((2, True) if drawn else (1, False))


def test_not_where_the_encoder_counts_what_it_sees(
    model: MultimodalModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch statistics of a training encoder depend on how often a picture is shown."""
    monkeypatch.setitem(model.vision_encoder._modules, "norm", torch.nn.BatchNorm2d(3))
    seen: list[int] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    model.train()
    model(batch)
    model.eval()
    model(batch)
    assert seen == [4, 2]
