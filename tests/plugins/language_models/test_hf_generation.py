"""Answers: greedy, sampled, by beams, in batches, streamed and stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lensmith import GenerationOptions, Loading
from lensmith_plugins.language_models.answers import StopTexts, trim
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.specs import HfCausalSpec, VicunaSpec

GREEDY = GenerationOptions(max_new_tokens=12)
PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15, 16, 17, 18, 19]]
SHARED = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[4] / "shared"))
GOLDEN = SHARED / "golden" / "model"


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Path], bytelevel_folder: Path
) -> HfCausalLanguageModel:
    folder = write_model(tmp_path_factory.mktemp("llama"), "llama")
    # As Vicuna's own: none of this may have an effect or a warning.
    defaults = {"do_sample": True, "temperature": 5.0, "top_k": 50, "max_length": 3, "repetition_penalty": 3.0}
    (folder / "generation_config.json").write_text(json.dumps(defaults))
    spec = HfCausalSpec(checkpoint=str(folder), tokenizer=str(bytelevel_folder))
    return HfCausalLanguageModel.build(spec, Loading())


def prompt(model: HfCausalLanguageModel, *rows: list[int]) -> tuple[Tensor, Tensor]:
    """Left-padded embeddings and their mask."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]).bool()
    return model.embed(ids).detach(), mask


def greedy_by_hand(model: HfCausalLanguageModel, row: list[int], count: int) -> list[int]:
    ids = list(row)
    for _ in range(count):
        with torch.no_grad():
            logits = model.network(torch.tensor([ids])).logits[0, -1]
        if int(logits.argmax()) == model.tokenizer.eos_id:
            break
        ids.append(int(logits.argmax()))
    return ids[len(row) :]


@pytest.mark.parametrize("row", PROMPTS)
def test_greedy_is_the_likeliest_id_each_time(model: HfCausalLanguageModel, row: list[int]) -> None:
    answer = model.generate(*prompt(model, row), GREEDY)[0]
    assert answer == greedy_by_hand(model, row, GREEDY.max_new_tokens)
    assert len(answer) > 3


@pytest.mark.parametrize("beams", [1, 3])
def test_batched_answers_are_the_single_ones(model: HfCausalLanguageModel, beams: int) -> None:
    options = replace(GREEDY, beams=beams)
    alone = [model.generate(*prompt(model, row), options)[0] for row in PROMPTS]
    assert model.generate(*prompt(model, *PROMPTS), options) == alone


def score(model: HfCausalLanguageModel, row: list[int], answer: list[int]) -> float:
    with torch.no_grad():
        logits = model.network(torch.tensor([[*row, *answer]])).logits[0].log_softmax(-1)
    steps = range(len(row) - 1, len(row) + len(answer) - 1)
    return sum(float(logits[step, token]) for step, token in zip(steps, answer, strict=True))


def test_beams_find_likelier_answers(model: HfCausalLanguageModel) -> None:
    better = 0
    for row in PROMPTS:
        greedy = list(model.generate(*prompt(model, row), replace(GREEDY, max_new_tokens=6))[0])
        beams = list(model.generate(*prompt(model, row), replace(GREEDY, max_new_tokens=6, beams=8))[0])
        better += score(model, row, beams) > score(model, row, greedy) + 1e-4
        assert score(model, row, beams) >= score(model, row, greedy) - 1e-4
    assert better


def test_sampling_follows_seed_temperature_and_nucleus(model: HfCausalLanguageModel) -> None:
    def sample(seed: int, **changes: float) -> list[int]:
        torch.manual_seed(seed)
        options = replace(GREEDY, **{"temperature": 1.0, **changes})
        return list(model.generate(*prompt(model, PROMPTS[0]), options)[0])

    assert sample(0) == sample(0)
    assert len({tuple(sample(seed)) for seed in range(5)}) > 1
    cold = {tuple(sample(seed, temperature=1e-4)) for seed in range(5)}
    narrow = {tuple(sample(seed, top_p=1e-4)) for seed in range(5)}
    assert cold == narrow == {tuple(model.generate(*prompt(model, PROMPTS[0]), GREEDY)[0])}


def test_sampling_is_not_cut_to_the_fifty_likeliest(model: HfCausalLanguageModel) -> None:
    embeds, mask = prompt(model, PROMPTS[0])
    with torch.no_grad():
        likeliest = set(model.network(torch.tensor([PROMPTS[0]])).logits[0, -1].topk(50).indices.tolist())
    torch.manual_seed(0)
    options = GenerationOptions(max_new_tokens=1, temperature=20.0)
    rows = model.generate(embeds.expand(200, -1, -1), mask.expand(200, -1), options)
    assert {row[0] for row in rows if row} - likeliest


def test_end_token_and_padding_are_taken_off(model: HfCausalLanguageModel) -> None:
    full = [list(row) for row in model.generate(*prompt(model, *PROMPTS), GREEDY)]
    # Let a token that the first answer contains be the end token.
    ending = full[0][3]
    model.tokenizer.eos_id, before = ending, model.tokenizer.eos_id
    try:
        cut = model.generate(*prompt(model, *PROMPTS), GREEDY)
    finally:
        model.tokenizer.eos_id = before
    expected = [row[: row.index(ending)] if ending in row else row for row in full]
    assert [list(row) for row in cut] == expected
    assert len(cut[0]) <= 3


def test_streamed_ids_are_the_answer(model: HfCausalLanguageModel) -> None:
    streamed: list[int] = []
    answer = model.generate(*prompt(model, PROMPTS[2]), GREEDY, streamed.append)[0]
    assert streamed == list(answer)
    assert len(answer) > 3
    beams: list[int] = []
    model.generate(*prompt(model, PROMPTS[2]), replace(GREEDY, beams=2), beams.append)
    assert beams == []


def test_stop_texts_end_answers(model: HfCausalLanguageModel) -> None:
    full = model.generate(*prompt(model, *PROMPTS), GREEDY)
    said = model.tokenizer.decode(full[1])
    later, earlier = said[6:8], said[4:6]
    options = replace(GREEDY, stop=(later, earlier))
    streamed: list[int] = []
    stopped = model.generate(*prompt(model, PROMPTS[1]), options, streamed.append)[0]
    text = model.tokenizer.decode(stopped)
    assert streamed == list(stopped)
    assert said.startswith(text)
    assert earlier not in text
    assert later not in text
    assert len(text) <= min(said.index(earlier), said.index(later))
    batched = model.generate(*prompt(model, *PROMPTS), options)
    assert list(batched[1]) == list(stopped)
    alone = [model.generate(*prompt(model, row), options)[0] for row in PROMPTS]
    assert [list(row) for row in batched] == [list(row) for row in alone]


def test_a_stop_that_is_a_special_token_ends_like_the_end_token(model: HfCausalLanguageModel) -> None:
    full = list(model.generate(*prompt(model, PROMPTS[0]), GREEDY)[0])
    tokenizer = model.tokenizer
    model.tokenizer = replace(tokenizer, added={**tokenizer.added, "<|stop|>": full[2]})
    try:
        cut = model.generate(*prompt(model, PROMPTS[0]), replace(GREEDY, stop=("<|stop|>",)))[0]
    finally:
        model.tokenizer = tokenizer
    assert list(cut) == full[: full.index(full[2])]


def test_nothing_is_printed_and_training_mode_stays(
    model: HfCausalLanguageModel, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    model.network.train()
    for options in (GREEDY, replace(GREEDY, beams=2), replace(GREEDY, temperature=0.7, top_p=0.9)):
        model.generate(*prompt(model, *PROMPTS), options)
    assert model.network.training
    model.network.eval()
    model.generate(*prompt(model, *PROMPTS), GREEDY)
    assert not model.network.training
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_generation_under_activation_checkpointing(model: HfCausalLanguageModel) -> None:
    expected = model.generate(*prompt(model, *PROMPTS), GREEDY)
    model.network.activation_checkpointing_enable()
    model.network.train()
    try:
        assert model.generate(*prompt(model, *PROMPTS), GREEDY) == expected
    finally:
        model.network.activation_checkpointing_disable()
        model.network.eval()


def chars(ids: object) -> str:
    return "".join({1: "a", 2: "b", 3: "##", 4: "#", 5: "c#"}[i] for i in ids)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("ids", "kept", "certain"),
    [
        ([1, 2], [1, 2], 2),
        ([1, 3], [1, 3], 1),  # "##" may still become the stop text
        ([1, 3, 4, 2], [1], 1),
        ([1, 5, 3], [1, 5, 3], 1),  # the stop text begins inside an id, whose other words belong to the answer
        ([1, 3, 2], [1, 3, 2], 3),
    ],
)
def test_stop_text_across_ids(ids: list[int], kept: list[int], certain: int) -> None:
    stops = StopTexts(["###"], chars)
    assert trim(ids, [9], stops) == kept
    if stops.length(ids) is None:
        assert stops.certain(ids) == certain


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden data at {GOLDEN}")
@pytest.mark.parametrize("beams", [1, 5])
def test_golden_answers_to_text(tmp_path: Path, beams: int) -> None:
    weights = {
        name: tensor
        for name, tensor in load_file(GOLDEN / "weights_backbone.safetensors").items()
        if "vision_tower" not in name
    }
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((GOLDEN / "tiny_llama" / "config.json").read_text())
    tokenizer = str(SHARED / "tokenizer" / "vicuna_v1_5")
    model = HfCausalLanguageModel.build(VicunaSpec(checkpoint=str(tmp_path), tokenizer=tokenizer), Loading())
    meta = json.loads((GOLDEN / "meta.json").read_text())
    case = meta["generation_linear"][f"text_beams{beams}"]
    embeds, mask = prompt(model, case["input_ids"])
    answer = model.generate(embeds, mask, GenerationOptions(max_new_tokens=16, beams=beams))[0]
    bos, *expected = case["output_ids"]  # 4.37 puts a BOS in front
    assert bos == 1
    assert list(answer) == expected
