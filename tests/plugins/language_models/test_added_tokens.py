"""`add_tokens`: the tokenizer gains special tokens, embeddings and head gain rows, and both survive being saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lensmith import Loading
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.specs import HfCausalSpec, LlamaSpec, VicunaSpec
from lensmith_plugins.language_models.vocabulary import ADDED, read_vocabulary

NEW = ["<im_start>", "<im_end>"]


def build(spec: Any, loading: Loading | None = None) -> HfCausalLanguageModel:
    return HfCausalLanguageModel.build(spec, loading or Loading())


@pytest.mark.parametrize("source", ["sentencepiece_folder", "bytelevel_folder"])
def test_ids_follow_the_tokenizers_own(
    tmp_path: Path, write_model: Callable[..., Path], request: pytest.FixtureRequest, source: str
) -> None:
    folder = request.getfixturevalue(source)
    own = read_vocabulary(str(folder))
    assert own is not None
    spec = LlamaSpec(checkpoint=str(write_model(tmp_path / "m", "llama")), tokenizer=str(folder), add_tokens=NEW)
    tokenizer = HfCausalLanguageModel.load_tokenizer(spec)
    assert [tokenizer.token_id(token) for token in NEW] == [own.length, own.length + 1]
    out = tmp_path / "tokenizer"
    out.mkdir()
    tokenizer.save(out)

    again = HfCausalLanguageModel.load_tokenizer(spec.with_tokenizer(out))
    assert again.added == tokenizer.added
    assert again.specials == tokenizer.specials
    text = "the bus <im_start> is"
    assert again.encode(text, after="start") == tokenizer.encode(text, after="start")
    assert own.length not in tokenizer.encode(text, after="start").ids  # data cannot spell a special token
    ids = [*again.encode("bus", after="start").ids, own.length, again.eos_id]
    assert again.decode(ids) == tokenizer.decode(ids) == "bus"
    plain = AutoTokenizer.from_pretrained(out)
    assert plain.convert_tokens_to_ids(NEW) == [own.length, own.length + 1]
    assert own.length in plain(text)["input_ids"]
    saved = read_vocabulary(str(out))
    assert saved is not None
    assert (saved.length, saved.appended) == (own.length + 2, tuple(NEW))
    out2 = tmp_path / "twice"
    out2.mkdir()
    again.save(out2)
    assert read_vocabulary(str(out2)) == saved


ARCHITECTURES = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("phi", {}),
    ("gemma", {}),
    ("opt", {}),
    ("gpt_neox", {}),
    ("gpt2", {}),
]


@pytest.mark.parametrize(("architecture", "changes"), ARCHITECTURES, ids=str)
def test_new_rows_are_the_mean_and_are_saved(
    tmp_path: Path,
    write_model: Callable[..., Path],
    bytelevel_folder: Path,
    architecture: str,
    changes: dict[str, Any],
) -> None:
    folder = write_model(tmp_path / "m", architecture, **changes)
    common = {"checkpoint": str(folder), "tokenizer": str(bytelevel_folder), "context_length": 64}
    before = build(HfCausalSpec(**common))
    spec = HfCausalSpec(**common, add_tokens=NEW)
    model = build(spec)
    rows = before.shape.vocabulary
    assert model.tokenizer.token_id(NEW[1]) == rows + 1
    tables = [
        (model.network.get_input_embeddings().weight, before.network.get_input_embeddings().weight),
        (model.network.get_output_embeddings().weight, before.network.get_output_embeddings().weight),
    ]
    if (bias := model.network.get_output_embeddings().bias) is not None:
        tables.append((bias, before.network.get_output_embeddings().bias))
    for now, then in tables:
        assert len(now) == rows + 2
        assert torch.equal(now[:rows], then)
        torch.testing.assert_close(now[rows:], then.mean(0, keepdim=True).expand(2, *then.shape[1:]).squeeze())
    assert model.shape == HfCausalLanguageModel.measure(spec) == (spec.shape() or model.shape)
    assert model.shape.vocabulary == rows + 2
    ids = torch.tensor([[3, rows, 4, rows + 1]])
    steps, ones = torch.arange(4)[None], torch.ones(1, 4, dtype=torch.long)
    logits = model.head(model(model.embed(ids), steps, ones))

    # Trained on, saved, loaded by plain transformers and by the spec that follows the artifact.
    trained = {name: p.detach() * 1.5 for name, p in model.named_parameters()}
    model.load_state_dict(trained, strict=False)
    logits = model.head(model(model.embed(ids), steps, ones))
    out = tmp_path / "out"
    out.mkdir()
    model.save(out)
    plain = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    torch.testing.assert_close(plain(ids).logits, logits, rtol=1e-5, atol=1e-5)
    assert len(AutoTokenizer.from_pretrained(out)) == rows + 2
    moved = spec.relocated(out)
    assert moved.add_tokens == NEW
    again = build(moved)
    assert again.shape == model.shape == (moved.shape() or model.shape)
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, trained[name]), name


def test_spare_rows_are_used_first(
    tmp_path: Path, write_model: Callable[..., Path], sentencepiece_folder: Path
) -> None:
    """As Qwen has them: the embeddings have more rows than the tokenizer has ids."""
    folder = write_model(tmp_path / "m", "llama", vocabulary=352)
    spec = VicunaSpec(checkpoint=str(folder), tokenizer=str(sentencepiece_folder), add_tokens=NEW)
    model = build(spec)
    weight = model.network.get_input_embeddings().weight
    assert len(weight) == 352
    assert spec.shape() == model.shape
    mean = load_file(folder / "model.safetensors")["model.embed_tokens.weight"][:320].mean(0)
    torch.testing.assert_close(weight[320:322], mean.expand(2, -1))
    assert not torch.allclose(weight[322], mean, atol=1e-3)


def test_a_base_with_its_tokenizer_elsewhere_gets_the_same_rows(
    tmp_path: Path, write_model: Callable[..., Path], sentencepiece_folder: Path
) -> None:
    """An artifact of a frozen language model: the base's weights, and a tokenizer that holds the tokens."""
    folder = write_model(tmp_path / "m", "llama", vocabulary=321)
    spec = LlamaSpec(checkpoint=str(folder), tokenizer=str(sentencepiece_folder), add_tokens=NEW)
    model = build(spec)
    out = tmp_path / "tokenizer"
    out.mkdir()
    model.tokenizer.save(out)
    again = build(spec.with_tokenizer(out))
    assert again.tokenizer.added == model.tokenizer.added
    assert spec.with_tokenizer(out).shape() == again.shape == model.shape
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_rows_do_not_depend_on_the_precision_of_loading(
    tmp_path: Path, write_model: Callable[..., Path], sentencepiece_folder: Path
) -> None:
    folder = write_model(tmp_path / "m", "llama")
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    spec = LlamaSpec(checkpoint=str(folder), tokenizer=str(sentencepiece_folder), add_tokens=NEW)
    whole, half = (build(spec, Loading(dtype)).network.lm_head.weight for dtype in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert torch.equal(whole, half.float())


def test_tokens_that_are_there_stay(tmp_path: Path, write_model: Callable[..., Path], bytelevel_folder: Path) -> None:
    folder = write_model(tmp_path / "m", "llama")
    common = {"checkpoint": str(folder), "tokenizer": str(bytelevel_folder)}
    spec = HfCausalSpec(**common, add_tokens=["<|im_start|>"])
    model, plain = build(spec), build(HfCausalSpec(**common))
    assert model.tokenizer == plain.tokenizer
    assert spec.shape() == model.shape == plain.shape
    assert torch.equal(model.network.lm_head.weight, plain.network.lm_head.weight)
    assert ADDED not in model.network.config.to_dict()


def test_random_weights_and_structures_have_the_rows(
    tmp_path: Path, write_model: Callable[..., Path], sentencepiece_folder: Path
) -> None:
    folder = write_model(tmp_path / "m", "llama")
    spec = LlamaSpec(config=folder, tokenizer=str(sentencepiece_folder), add_tokens=NEW)
    fresh = build(spec)
    rows = fresh.network.model.embed_tokens.weight
    torch.testing.assert_close(rows[320:], rows[:320].mean(0).expand(2, -1))
    with torch.device("meta"):
        structure = build(spec, Loading(weights=False))
    assert structure.shape == fresh.shape == spec.shape()
    assert {p.device.type for p in structure.parameters()} == {"meta"}


def test_a_checkpoint_elsewhere_is_planned(tmp_path: Path, write_model: Callable[..., Path]) -> None:
    folder = write_model(tmp_path / "m", "llama")
    shape = LlamaSpec(checkpoint="somebody/their-model", config=folder, add_tokens=NEW).shape()
    assert shape is not None
    assert shape.vocabulary == 322


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([" <a>"], "spaces around it"), ([""], "is empty"), (["<a>", "<a>"], "named twice")],
)
def test_what_is_no_token_is_refused(tokens: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LlamaSpec(checkpoint="a/b", add_tokens=tokens)


def test_a_tokenizer_of_another_model_is_refused(
    tmp_path: Path, write_model: Callable[..., Path], sentencepiece_folder: Path
) -> None:
    folder = write_model(tmp_path / "m", "llama")
    tokenizer = shutil.copytree(sentencepiece_folder, tmp_path / "tokenizer")
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    entry = {
        "content": "[PAD]",
        "special": True,
        "normalized": False,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
    }
    config |= {"pad_token": "[PAD]", "added_tokens_decoder": {"320": entry}}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"pad token of .* has id 320 .* has 320 embeddings; set .*tokenizer"):
        build(LlamaSpec(checkpoint=str(folder), tokenizer=str(tokenizer)))
    # Vicuna pads with <unk>, as the original LLaVA sets it.
    assert build(VicunaSpec(checkpoint=str(folder), tokenizer=str(tokenizer))).tokenizer.pad_id == 0
