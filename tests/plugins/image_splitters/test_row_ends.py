"""The learned row-end vector: trained by stage 1, written, read, and reached by every kind of batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lensmith
from lensmith import MultimodalModel
from lensmith.data.batch import collate
from lensmith.data.rows import parse_row
from lensmith.data.sample import Sample, encode_row, expand

SIZES = ((40, 24), (28, 90), (56, 56))
"""(width, height) of the pictures of a row: three different layouts."""


def with_splitter(spec: dict[str, Any], splitter: Any) -> dict[str, Any]:
    changed = copy.deepcopy(spec)
    changed["model"]["image_splitter"] = splitter
    return changed


@pytest.fixture(params=["anyres", "hd"])
def tiled(request: pytest.FixtureRequest, spec: dict[str, Any]) -> dict[str, Any]:
    return with_splitter(spec, request.param)


@pytest.fixture
def model(tiled: dict[str, Any]) -> MultimodalModel:
    return lensmith.assemble(tiled).train()


def sample(model: MultimodalModel, *sizes: tuple[int, int]) -> Sample:
    tokenizer = model.language_model.tokenizer
    messages = [{"from": "human", "value": "<image>" * len(sizes) + "What?"}, {"from": "gpt", "value": "red"}]
    row = parse_row({"id": "row", "image": ["x.png"] * len(sizes), "conversations": messages}, number=0)
    pictures = [model.pictures.prepare(Image.radial_gradient("L").resize(size).convert("RGB")) for size in sizes]
    return expand("row", encode_row(row, model.conversation, tokenizer), pictures, tokenizer.pad_id)


def newline_of(model: MultimodalModel) -> torch.nn.Parameter:
    return dict(model.image_splitter.named_parameters())["newline"]


def test_pictures_of_one_row_keep_their_own_layouts(model: MultimodalModel) -> None:
    pad_id = model.language_model.tokenizer.pad_id
    together = sample(model, *SIZES)
    layouts = [picture.layout for picture in together.pictures]
    assert len({layout.tiles for layout in layouts}) == 3
    batch = collate([together, sample(model), sample(model, SIZES[1])], pad_id)
    embeds = model.embed(batch).flatten(0, 1)[batch.image_positions]
    alone = [model.embed(collate([sample(model, size)], pad_id))[0] for size in (*SIZES, SIZES[1])]
    starts = [sample(model, size).image_positions[0] for size in (*SIZES, SIZES[1])]
    counts = [*(layout.tokens for layout in layouts), layouts[1].tokens]
    expected = [one[start : start + count] for one, start, count in zip(alone, starts, counts, strict=True)]
    torch.testing.assert_close(embeds, torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_a_gradient_reaches_it_with_and_without_pictures(model: MultimodalModel) -> None:
    model.requires_grad_(True)
    pad_id = model.language_model.tokenizer.pad_id
    for rows, dummy, moves in (((SIZES, ()), False, True), (((),), True, False)):
        model.zero_grad(set_to_none=True)
        loss = model(collate([sample(model, *sizes) for sizes in rows], pad_id), dummy_picture=dummy)
        loss.backward()
        gradient = newline_of(model).grad
        assert torch.isfinite(loss)
        assert gradient is not None
        assert bool(gradient.any()) == moves


def test_it_starts_as_long_as_an_embedding(tiled: dict[str, Any]) -> None:
    models = [lensmith.assemble(tiled, seed=seed) for seed in range(4)]
    vectors = torch.stack([newline_of(model).detach() for model in models])
    assert vectors.norm(dim=1).mean().item() == pytest.approx(1, abs=0.2)  # variance 1 / D
    assert not torch.equal(vectors[0], vectors[1])
    assert newline_of(lensmith.assemble(tiled, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_stage_one_trains_it_and_the_artifact_holds_it(tiled: dict[str, Any], tmp_path: Path) -> None:
    stage = {**tiled["stages"]["align"], "lr": 1e-2, "max_steps": 3, "schedule": {"warmup_ratio": 0.0}}
    (artifact,) = lensmith.train({"model": tiled["model"], "stages": {"align": stage}}, output=tmp_path / "run")
    stored = load_file(artifact / "image_splitter.safetensors")
    assert stored.keys() == {"newline"}
    fresh = newline_of(lensmith.assemble(tiled, seed=42)).detach()
    assert (stored["newline"] - fresh).abs().max() > 1e-3
    loaded = lensmith.load(artifact)
    assert torch.equal(newline_of(loaded), stored["newline"])
    assert isinstance(loaded.generate(Image.new("RGB", (90, 28), "red"), "What colour is it?"), str)


@pytest.mark.parametrize("merge", ["flat", "spatial"])
def test_other_merges_have_none(spec: dict[str, Any], merge: str) -> None:
    model = lensmith.assemble(with_splitter(spec, {"name": "anyres", "merge": merge})).eval()
    assert list(model.image_splitter.parameters()) == []
    with torch.no_grad():
        loss = model(collate([sample(model, *SIZES)], model.language_model.tokenizer.pad_id))
    assert torch.isfinite(loss)
