"""Methods of peft through input embeddings: planned, trained a step, saved, loaded, asked, merged where they can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lensmith
from lensmith.errors import LensmithError, SpecError
from lensmith.interfaces.language_model import GenerationOptions
from lensmith.spec.check import checked
from lensmith_plugins.compat.transformers import _cache_name

from .conftest import QUESTION, logits

PREFIX = {"name": "peft", "method": "prefix_tuning", "config": {"num_virtual_tokens": 3}}
METHODS = {
    "ia3": ({}, True),
    "prefix_tuning": ({"num_virtual_tokens": 3}, False),
    "adaption_prompt": ({"adapter_len": 4, "adapter_layers": 2}, False),
    "oft": ({"oft_block_size": 8}, True),
    "loha": ({"r": 2, "target_modules": ["q_proj", "v_proj"]}, True),
    "lokr": ({"r": 2, "target_modules": r".*\.mlp\..*"}, True),
    "vera": ({"r": 4, "target_modules": ["q_proj", "o_proj"], "d_initial": 1.0}, True),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method(
    stages: Callable[..., Any], prepared: Callable[..., Any], rows: Path, tmp_path: Path, method: str
) -> None:
    config, merges = METHODS[method]
    tuner = {"name": "peft", "method": method, "config": config}
    model, real, planned = prepared(tuner)
    trains = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    assert {p.name: p.shape for p in planned} == trains
    assert sorted(n for g in real.groups(model) for n in g.names) == sorted(trains)
    assert {g.name for g in real.groups(model)} == {"connector", method}

    (artifact,) = lensmith.train(stages(tune=tuner), output=tmp_path / "run")
    trained = lensmith.load(artifact)
    assert not torch.allclose(logits(trained), logits(prepared("frozen")[0]), atol=1e-3)
    again = lensmith.load(trained.save(tmp_path / "again"))
    assert torch.equal(logits(again), logits(trained))
    options = GenerationOptions(max_new_tokens=5)
    questions = [(rows.parent / "0.png", QUESTION), (None, "Say it, at some length, please.")]
    answers = trained.generate_batch(questions, options)
    assert again.generate_batch(questions, options) == answers
    assert [trained.generate(*question, options) for question in questions] == answers  # alone as in a batch
    if merges:
        assert lensmith.merge(artifact, tmp_path / "merged").difference < 1e-4
        assert torch.allclose(logits(lensmith.load(tmp_path / "merged")), logits(trained), atol=1e-4)
    else:
        with pytest.raises(LensmithError, match=f"adapters of '{method}' cannot be merged"):
            lensmith.merge(artifact, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()


def test_a_prefix_is_what_peft_makes_of_it(
    stages: Callable[..., Any], wide_language_model: Path, tmp_path: Path
) -> None:
    """peft alone, on the same embeddings: the same logits; so do steps through the cache and a whole pass."""
    import peft
    from transformers import AutoModelForCausalLM

    (artifact,) = lensmith.train(stages(tune=PREFIX), output=tmp_path)
    base = AutoModelForCausalLM.from_pretrained(wide_language_model)
    theirs = peft.PeftModel.from_pretrained(base, artifact / "adapter").eval()
    language_model = lensmith.load(artifact).language_model.eval()
    torch.manual_seed(0)
    embeds = torch.randn(2, 6, 64)
    positions, segments = torch.arange(6).expand(2, 6), torch.ones(2, 6, dtype=torch.long)
    with torch.no_grad():
        ours = language_model.head(language_model(embeds, positions, segments))
        expected = theirs(inputs_embeds=embeds, attention_mask=segments).logits
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)

    new = language_model.generate(embeds[:1], segments[:1] > 0, GenerationOptions(max_new_tokens=5))[0]
    with torch.no_grad():
        whole = torch.cat([embeds[:1], language_model.embed(torch.tensor([list(new)]))], dim=1)
        length = whole.shape[1]
        ones = torch.ones(1, length, dtype=torch.long)
        hidden = language_model(whole, torch.arange(length)[None], ones)
        greedy = language_model.head(hidden)[0].argmax(-1).tolist()
    assert greedy[5 : 5 + len(new)] == list(new)


@pytest.mark.parametrize("drops", ["renamed", "ignored"])
def test_V1_a_prefix_that_does_not_reach_the_keys_is_an_error(
    prepared: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, drops: str
) -> None:
    """A decoder that takes its cache under a third name, or takes it and starts one of its own."""
    decoder = prepared("frozen")[0].language_model.network.get_decoder()
    forward = type(decoder).forward

    def renamed(self: Any, inputs_embeds: Any = None, memory: Any = None, **rest: Any) -> Any:
        return forward(self, inputs_embeds=inputs_embeds, **rest)

    def ignored(self: Any, inputs_embeds: Any = None, cache: Any = None, past_key_values: Any = None, **r: Any) -> Any:
        return forward(self, inputs_embeds=inputs_embeds, **r)

    monkeypatch.setattr(type(decoder), "forward", {"renamed": renamed, "ignored": ignored}[drops])
    _cache_name.cache_clear()
    tested = r"transformers \S+ \(.*tested.*\): .*install a tested version \(pip install \"transformers=="
    with pytest.raises(LensmithError, match=tested) as caught:
        logits(prepared(PREFIX)[0])
    assert ("takes no cache" if drops == "renamed" else "would answer without its prefix") in str(caught.value)
    monkeypatch.undo()
    _cache_name.cache_clear()
    logits(prepared(PREFIX)[0])


def test_V1_a_prefix_changes_the_answer(prepared: Callable[..., Any]) -> None:
    model, _, _ = prepared(PREFIX)
    before = logits(model)
    with torch.no_grad():
        model.language_model.prefix.weight.mul_(100)
    assert (logits(model) - before).abs().max() > 1e-2


def test_packed_rows_see_the_prefix_and_themselves(prepared: Callable[..., Any]) -> None:
    model, _, _ = prepared(PREFIX)
    with torch.no_grad():
        model.language_model.prefix.weight.mul_(50)
        torch.manual_seed(0)
        first, second = torch.randn(1, 4, 64), torch.randn(1, 5, 64)
        packed = model.language_model(
            torch.cat([first, second], dim=1),
            torch.cat([torch.arange(4), torch.arange(5)])[None],
            torch.tensor([[1] * 4 + [2] * 5]),
        )
        alone = [
            model.language_model(e, torch.arange(e.shape[1])[None], torch.ones(1, e.shape[1], dtype=torch.long))
            for e in (first, second)
        ]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=0, atol=1e-5)


def test_what_is_written_is_peft_s_own_format(stages: Callable[..., Any], tmp_path: Path) -> None:
    (artifact,) = lensmith.train(stages(tune={"name": "peft", "method": "ia3"}), output=tmp_path)
    names = set(load_file(artifact / "adapter" / "adapter_model.safetensors"))
    assert names == {
        f"base_model.model.model.layers.{n}.{leaf}.ia3_l"
        for n in range(4)
        for leaf in ("self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")
    }


@pytest.mark.parametrize(
    ("tuner", "message"),
    [
        ({"method": "prompt_tuning"}, "it puts learnt tokens in front of the token ids, and a picture has none"),
        ({"method": "xlora"}, "it reads token ids"),
        ({"method": "lora"}, "it has a tuner of its own: `lora`"),
        ({"method": "ia4"}, "'ia4' is no method of the installed peft. Did you mean 'ia3'? There are: "),
        ({"method": "ia3", "config": {"target_module": ["k_proj"]}}, "Did you mean 'target_modules'? Fields: "),
        ({"method": "loha", "config": {"rank_dropout": 0.1, "rnk": 3}}, "config.rnk is no field of loha"),
        ({"method": "ia3", "config": {"task_type": "SEQ_CLS"}}, "config.task_type is not yours to set: it is always"),
        ({"method": "ia3", "config": {"modules_to_save": ["lm_head"]}}, "config.modules_to_save is not yours to set"),
        ({"method": "oft", "config": {"target_modules": ["w_q"]}}, "target 'w_q' is no linear layer"),
        ({"method": "oft", "config": {"target_modules": "nothing"}}, "'nothing' matches no linear layer"),
        ({"method": "prefix_tuning"}, "prefix_tuning needs config.num_virtual_tokens, a number above 0"),
        ({"method": "adaption_prompt", "config": {"adapter_len": 2, "adapter_layers": 9}}, "has 4 layers"),
    ],
    ids=lambda value: value["method"] if isinstance(value, dict) else "",
)
def test_a_check_says_what_is_wrong(stages: Callable[..., Any], tuner: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        checked(stages(tune={"name": "peft", **tuner}))
    assert message in str(caught.value)


def test_a_plan_hands_on_what_peft_says(stages: Callable[..., Any]) -> None:
    tuner = {"name": "peft", "method": "oft", "config": {"oft_block_size": 8, "r": 3}}
    with pytest.raises(SpecError, match="peft's oft: You can only specify either r"):
        lensmith.plan(stages(tune=tuner))
