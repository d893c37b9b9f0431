"""Our walk against the original LLaVA's outputs: the same tiny weights, inputs and pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from lensmith import GenerationOptions, MultimodalModel, assemble
from lensmith.data.batch import Batch, collate
from lensmith.data.encode import Encoded
from lensmith.data.rows import RowError
from lensmith.data.sample import Picture, Sample, expand, truncate
from lensmith.interfaces.text import IGNORE_LABEL, IMAGE_ID

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
"""Of one torch to another; the worst that was measured is 9e-6."""
CONNECTORS = {"linear": {"name": "linear"}, "mlp2x_gelu": {"name": "mlp", "depth": 2}}
TOWER = "model.vision_tower.vision_tower."

LINEAR, MLP = "linear", "mlp2x_gelu"
GRIDS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]


def anyres(merge: str) -> dict[str, Any]:
    return {"name": "anyres", "grids": GRIDS, "merge": merge}


@dataclass(frozen=True)
class Scenario:
    """How a scenario's settings are said here.

    Args:
        connectors: which the original ran it with.
        encoder: fields of the encoder's spec.
        splitter: the image splitter.
        left: padding on the left.
        max_length: where rows are cut.
        refused: rows that are an error here: the original cuts through their picture, or keeps no target of them.
    """

    connectors: tuple[str, ...] = (LINEAR, MLP)
    encoder: dict[str, Any] = field(default_factory=dict)
    splitter: str | dict[str, Any] = "pad"
    left: bool = False
    max_length: int | None = None
    refused: tuple[int, ...] = ()


PLAIN = Scenario()
SCENARIOS = {
    "one_image": Scenario((MLP,)),
    "pretrain_plain": Scenario(),
    "pad_right_mixed": Scenario(),
    "text_only_all": Scenario((MLP,)),
    "text_first_then_image": Scenario(),
    "multi_image": Scenario((MLP,)),
    "image_last_and_mid": Scenario((MLP,)),
    "truncate_24": Scenario((MLP,), max_length=24, refused=(0, 1)),
    "truncate_33": Scenario(max_length=33, refused=(1,)),
    "truncate_none": Scenario(),
    "pad_left": Scenario((LINEAR,), left=True),
    "no_mask_no_labels": Scenario(),
    "list_of_3d": Scenario((MLP,)),
    "cls_patch": Scenario((LINEAR,), encoder={"cls_token": True}),
    "layer_minus1": Scenario(encoder={"select_layer": -1}),
    "layer_1": Scenario((LINEAR,), encoder={"select_layer": 1}),
    "anyres_flat": Scenario((LINEAR,), splitter=anyres("flat")),
    "anyres_spatial": Scenario((), splitter=anyres("spatial")),
    "anyres_spatial_unpad": Scenario((MLP,), splitter=anyres("spatial_unpad")),
    "anyres_mixed_textonly_unpad": Scenario((LINEAR,), splitter=anyres("spatial_unpad")),
    "five_d_flat": Scenario((MLP,), splitter=anyres("flat")),
}


@dataclass
class Golden:
    """The stored inputs and outputs, and models made of the stored weights."""

    folder: Path
    parts: Path
    tokenizer: Path
    meta: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, dict[str, Tensor]]

    def model(self, connector: str, scenario: Scenario = PLAIN) -> MultimodalModel:
        chosen = json.dumps({"vision_encoder": scenario.encoder, "image_splitter": scenario.splitter}, sort_keys=True)
        model = _assembled(self.parts, self.tokenizer, connector, chosen)
        stored = load_file(self.folder / f"mm_projector_{connector}.safetensors")
        model.connector.load_state_dict({n.removeprefix("model.mm_projector."): t for n, t in stored.items()})
        row_end = load_file(self.folder / "image_newline.safetensors")["model.image_newline"]
        model.image_splitter.load_state_dict({name: row_end for name, _ in model.image_splitter.named_parameters()})
        return model

    def picture(self, model: MultimodalModel, pixels: Tensor, size: tuple[int, int] | None = None) -> Picture:
        """One picture from its recorded views; a single one may be without the dimension of views."""
        views = pixels if pixels.ndim == 4 else pixels[None]
        layout = model.pictures.layout(*(size or pixels.shape[-2:]))
        assert layout.views == len(views)
        return Picture(views, layout)

    def samples(self, model: MultimodalModel, name: str) -> list[Sample]:
        """The stored rows through our own expansion. A row without a picture had a dummy in the original."""
        scenario = SCENARIOS[name]
        ids, mask = self.inputs[f"{name}/input_ids"], self.inputs[f"{name}/attention_mask"]
        labels = self.inputs[f"{name}/labels"]
        pixels = iter(self.pixels(name))
        samples = []
        for number in range(len(ids)):
            row = ids[number][mask[number]].tolist()
            wanted = labels[number][mask[number]].tolist()
            spans = [(i, i + 1) for i, label in enumerate(wanted) if label != IGNORE_LABEL]
            shown = [next(pixels) for _ in range(row.count(IMAGE_ID) or 1)][: row.count(IMAGE_ID)]
            pictures = [self.picture(model, picture, size) for picture, size in shown]
            encoded = Encoded(row, spans, "")
            if scenario.max_length is not None:
                tokens = [p.layout.tokens for p in pictures]
                if number in scenario.refused:
                    with pytest.raises(RowError):
                        truncate(encoded, tokens, scenario.max_length)
                    continue
                encoded = truncate(encoded, tokens, scenario.max_length)
            samples.append(expand(f"{name}-{number}", encoded, pictures, model.language_model.tokenizer.pad_id))
        return samples

    def pixels(self, name: str) -> list[tuple[Tensor, tuple[int, int] | None]]:
        """Each picture's pixels with its (height, width) before it was cut, where that is on record."""
        if f"{name}/images" in self.inputs:
            found = list(self.inputs[f"{name}/images"])
        else:
            count = sum(key.startswith(f"{name}/images.") for key in self.inputs)
            found = [self.inputs[f"{name}/images.{number}"] for number in range(count)]
        sizes = self.meta["scenarios"][name]["image_sizes"]
        return list(zip(found, [(h, w) for w, h in sizes] if sizes else [None] * len(found), strict=True))


@lru_cache(maxsize=12)
def _assembled(parts: Path, tokenizer: Path, connector: str, chosen: str) -> MultimodalModel:
    fields = json.loads(chosen)
    spec = {
        "model": {
            "vision_encoder": {"name": "clip", "checkpoint": str(parts / "clip"), **fields["vision_encoder"]},
            "image_splitter": fields["image_splitter"],
            "connector": CONNECTORS[connector],
            "language_model": {
                "name": "vicuna",
                "checkpoint": str(parts / "llama"),
                "tokenizer": str(tokenizer),
            },
            "conversation": {"name": "vicuna_v1", "system": ""},
        }
    }
    return assemble(spec).eval()


@pytest.fixture(scope="module")
def golden(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """Each part's weights as a checkpoint of its own, under its own names."""
    folder = shared / "golden" / "model"
    parts = tmp_path_factory.mktemp("parts")
    weights = load_file(folder / "weights_backbone.safetensors")
    tower = {name.removeprefix(TOWER): t for name, t in weights.items() if name.startswith(TOWER)}
    rest = {name: t for name, t in weights.items() if not name.startswith(TOWER)}
    for name, tensors in (("clip", tower), ("llama", rest)):
        (parts / name).mkdir()
        save_file(tensors, parts / name / "model.safetensors", metadata={"format": "pt"})
        for file in (folder / f"tiny_{name}").iterdir():
            shutil.copyfile(file, parts / name / file.name)
    return Golden(
        folder,
        parts,
        shared / "tokenizer" / "vicuna_v1_5",
        json.loads((folder / "meta.json").read_text()),
        load_file(folder / "inputs.safetensors"),
        {connector: load_file(folder / f"outputs_{connector}.safetensors") for connector in CONNECTORS},
    )


CASES = [(name, connector) for name, scenario in SCENARIOS.items() for connector in scenario.connectors]


def stored(golden: Golden, name: str, connector: str, length: int) -> dict[str, Tensor]:
    """A scenario's outputs by their short names, of the rows that are kept here, without padding past `length`."""
    prefix = f"{name}/out."
    found = {k.removeprefix(prefix): t for k, t in golden.outputs[connector].items() if k.startswith(prefix)}
    rows = len(found["inputs_embeds"])
    kept = [row for row in range(rows) if row not in SCENARIOS[name].refused]
    return {k: t if k == "loss" else t[kept, :length] for k, t in found.items()}


def batch_of(golden: Golden, name: str, connector: str) -> tuple[MultimodalModel, Batch]:
    scenario = SCENARIOS[name]
    model = golden.model(connector, scenario)
    samples = golden.samples(model, name)
    return model, collate(samples, model.language_model.tokenizer.pad_id, left=scenario.left)


@pytest.mark.parametrize(("name", "connector"), CASES)
@torch.no_grad()
def test_forward(golden: Golden, name: str, connector: str) -> None:
    model, batch = batch_of(golden, name, connector)
    expected = stored(golden, name, connector, batch.ids.shape[1])
    if not SCENARIOS[name].refused:
        assert batch.ids.shape[1] == golden.meta["scenarios"][name]["results"][connector]["seq_len"]

    shown = expected.get("attention_mask", torch.ones(batch.ids.shape, dtype=torch.bool))
    assert torch.equal(batch.segments > 0, shown)
    embeds = model.embed(batch)
    torch.testing.assert_close(embeds[shown], expected["inputs_embeds"][shown], **TOLERANCE)
    hidden = model.language_model(embeds, batch.positions, batch.segments)
    logits = model.language_model.head(hidden).float()
    torch.testing.assert_close(logits.logsumexp(-1)[shown], expected["logits_lse"][shown], **TOLERANCE)
    if "last_hidden" in expected:
        columns = logits[..., golden.meta["logits_cols"]]
        torch.testing.assert_close(hidden[shown], expected["last_hidden"][shown], **TOLERANCE)
        torch.testing.assert_close(columns[shown], expected["logits_cols"][shown], **TOLERANCE)
    best = logits.topk(2, dim=-1)
    clear = shown & (best.values[..., 0] - best.values[..., 1] > 1e-4)
    assert clear.sum() > 0.9 * shown.sum()
    assert torch.equal(best.indices[..., 0][clear], expected["logits_argmax"][clear])

    if "loss" in expected:
        targets = batch.targets[:, :-1]
        assert torch.equal(targets[shown[:, 1:]], expected["labels"][:, 1:][shown[:, 1:]])
        nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        learnt = targets != IGNORE_LABEL
        stored_nll = expected["nll"][:, : targets.shape[1]][learnt]
        torch.testing.assert_close(nll[learnt], stored_nll, **TOLERANCE)
        mean = stored_nll.mean() if SCENARIOS[name].refused else expected["loss"][0]
        torch.testing.assert_close(model(batch) / batch.target_count, mean, **TOLERANCE)


GRADIENTS = ("pretrain_plain", "pad_right_mixed")


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("connector", CONNECTORS)
def test_gradients(golden: Golden, name: str, connector: str) -> None:
    prefix = f"grad/{name}/model.mm_projector."
    expected = {k.removeprefix(prefix): t for k, t in golden.outputs[connector].items() if k.startswith(prefix)}
    model, batch = batch_of(golden, name, connector)
    model.requires_grad_(True)
    model.vision_encoder.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    (model(batch) / batch.target_count).backward()
    found = {n: p.grad for n, p in model.connector.named_parameters()}
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        difference = (found[parameter] - gradient).norm() / gradient.norm()  # type: ignore[operator]
        assert difference < 1e-5, f"{parameter}: {difference:.1e}"

    norms = golden.meta["scenarios"][name]["results"][connector]["grad_norms"]
    ours = {
        **{n.removeprefix("network."): p for n, p in model.language_model.named_parameters()},
        **{f"model.mm_projector.{n}": p for n, p in model.connector.named_parameters()},
    }
    assert norms.keys() == ours.keys()
    for parameter, norm in norms.items():
        assert ours[parameter].grad is not None, parameter
        assert ours[parameter].grad.norm().item() == pytest.approx(norm, rel=2e-5), parameter  # type: ignore[union-attr]
    assert all(p.grad is None for p in model.vision_encoder.parameters())


def pictures_of(golden: Golden, shared: Path, count: int) -> list[Tensor]:
    """What the generation cases showed. The record names the one picture; the pair is known by its answers."""
    if count == 1:
        return [load_file(shared / "golden/images/pixel_values_square_pad.safetensors")["pad/rgb_100x60.png"]]
    return [golden.inputs["cls_patch/images"][0], golden.inputs["image_last_and_mid/images"][0]][:count]


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("case", ["img", "two_img", "text"])
@pytest.mark.parametrize("connector", CONNECTORS)
def test_generation(golden: Golden, shared: Path, connector: str, case: str, beams: int) -> None:
    record = golden.meta[f"generation_{connector}"][f"{case}_beams{beams}"]
    begin, *expected = record["output_ids"]
    model = golden.model(connector)
    tokenizer = model.language_model.tokenizer
    assert begin == tokenizer.bos_id  # the original's `generate` puts it in front of what is new
    ids = record["input_ids"]
    pictures = [golden.picture(model, p) for p in pictures_of(golden, shared, ids.count(IMAGE_ID))]
    batch = collate([expand("case", Encoded(ids, [], ""), pictures, tokenizer.pad_id)], tokenizer.pad_id, left=True)
    options = GenerationOptions(max_new_tokens=len(expected), beams=beams)
    with torch.no_grad():
        answer = model.language_model.generate(model.embed(batch), batch.segments > 0, options)[0]
    assert list(answer) == expected


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("connector", CONNECTORS)
def test_the_same_answers_through_the_public_door(golden: Golden, shared: Path, connector: str, beams: int) -> None:
    """From a picture file and a question: decoder, padding, template, tokenizer and generation together."""
    model = golden.model(connector)
    options = GenerationOptions(max_new_tokens=16, beams=beams)
    file = shared / "golden/images/inputs/rgb_100x60.png"
    for case, image, prompt in (("img", file, "What color?"), ("text", None, "Hi, who are you?")):
        record = golden.meta[f"generation_{connector}"][f"{case}_beams{beams}"]
        text = model.language_model.tokenizer.decode(record["output_ids"]).strip()
        assert model.generate(image, prompt, options) == text


def test_every_scenario_is_compared(golden: Golden) -> None:
    assert set(golden.meta["scenarios"]) == SCENARIOS.keys()
    for name, scenario in SCENARIOS.items():
        assert set(scenario.connectors) == set(golden.meta["scenarios"][name]["results"]), name
    with_gradients = {k.split("/")[1] for t in golden.outputs.values() for k in t if k.startswith("grad/")}
    assert with_gradients == set(GRADIENTS)
