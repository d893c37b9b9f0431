"""`layers`: the first blocks of a language model alone, in the plan, in weights, in artifacts and in every way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lensmith import Loading
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.specs import CausalSpec, HfCausalSpec, LlamaSpec

from .conftest import ARCHITECTURES

Write = Callable[..., Path]


def _deep(architecture: str) -> dict[str, Any]:
    """Three blocks where the others of this folder have two."""
    own = {"n_layer": 3} if "n_layer" in ARCHITECTURES[architecture] else {}
    types = ARCHITECTURES[architecture].get("layer_types")
    return own | {"num_hidden_layers": 3} | ({"layer_types": [*types, "sliding_attention"]} if types else {})


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_first_blocks_compute_what_they_compute_in_the_whole_network(
    architecture: str, write_model: Write, bytelevel_folder: Path, tmp_path: Path
) -> None:
    folder = write_model(tmp_path, architecture, **_deep(architecture))
    spec = HfCausalSpec(checkpoint=str(folder), tokenizer=str(bytelevel_folder), layers=2, attention="eager")
    model = HfCausalLanguageModel.build(spec, Loading(torch.float32)).eval()
    whole = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.arange(3, 14)[None]
    with torch.no_grad():
        # The third block as the identity of its residual stream: its states are the second one's.
        kept = _without_last(whole)(input_ids=ids, use_cache=False).logits
        steps = torch.arange(ids.shape[1])[None]
        ours = model.head(model(model.embed(ids), steps, torch.ones_like(ids)))
    torch.testing.assert_close(ours, kept, rtol=1e-5, atol=1e-5)
    assert model.shape.layers == 2
    planned = spec.shape() or HfCausalLanguageModel.measure(spec)
    assert planned == model.shape
    assert {p.name: p.shape for p in planned.parameters} == {n: tuple(p.shape) for n, p in model.named_parameters()}


def _without_last(network: Any) -> Any:
    """The network with its last block taken out of the list that it goes through."""
    decoder = network.get_decoder()
    name, blocks = next((n, m) for n, m in decoder.named_children() if isinstance(m, torch.nn.ModuleList))
    setattr(decoder, name, blocks[:-1])
    return network


def test_it_is_saved_as_what_it_is(write_model: Write, bytelevel_folder: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "whole", "llama", num_hidden_layers=3)
    spec = LlamaSpec(checkpoint=str(folder), tokenizer=str(bytelevel_folder), layers=1)
    model = HfCausalLanguageModel.build(spec, Loading(torch.float32))
    (tmp_path / "cut").mkdir()
    model.save(tmp_path / "cut")
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    relocated = spec.relocated(tmp_path / "cut")
    assert relocated.layers == 1
    again = HfCausalLanguageModel.build(relocated, Loading(torch.float32))
    assert {n: t.tolist() for n, t in again.state_dict().items()} == {
        n: t.tolist() for n, t in model.state_dict().items()
    }
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")  # without a word of the cut
    assert len(plain.model.layers) == 1


@pytest.mark.parametrize(
    ("config", "layers", "there"),
    [
        ({"model_type": "llama", "num_hidden_layers": 5}, 6, 5),
        ({"model_type": "llama"}, 33, 32),  # the default of transformers' class
        ({"model_type": "opt"}, 13, 12),
        ({"model_type": "phi"}, 25, 24),
        ({"model_type": "bloom", "n_layer": 4}, 5, 4),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 7}}, 8, 7),
    ],
)
def test_more_than_there_are_is_told_from_the_config(
    config: dict[str, Any], layers: int, there: int, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = HfCausalSpec(config=tmp_path, layers=layers)
    with pytest.raises(ValueError, match=f"`layers` is {layers} and .* has {there}; set it to {there} or fewer"):
        spec.read_config()
    assert spec.model_copy(update={"layers": there}).whole()
    assert not spec.model_copy(update={"layers": there - 1}).whole()


def test_more_than_there_are_is_told_where_only_the_architecture_knows(
    write_model: Write, bytelevel_folder: Path, tmp_path: Path
) -> None:
    folder = write_model(tmp_path, "gpt_neox")
    config = json.loads((folder / "config.json").read_text())
    config.pop("num_hidden_layers")
    (folder / "config.json").write_text(json.dumps(config))
    spec = HfCausalSpec(config=folder, tokenizer=str(bytelevel_folder), layers=100)
    with pytest.raises(ValueError, match=r"`layers` is 100 and .* has 44"):
        HfCausalLanguageModel.measure(spec)


@pytest.mark.parametrize("layers", [0, -1, 1.5, "all"])
def test_it_is_a_number_of_blocks(layers: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layers"):
        CausalSpec(checkpoint="a/b", layers=layers)


def test_an_architecture_whose_blocks_depend_on_how_many_there_are_is_refused(tmp_path: Path) -> None:
    """Gemma 3n shares keys and values in its last blocks: which ones is counted from the end."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        "gemma3n_text",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=64,
        vocab_size_per_layer_input=64,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 3,
        laurel_rank=4,
        altup_num_inputs=2,
        activation_sparsity_pattern=[0.0] * 6,
    )
    from lensmith_plugins.language_models.cut import cut

    with pytest.raises(ValueError, match="'gemma3n_text' models cannot be cut by `layers`"):
        cut(config, 5, "here")


def test_a_scale_that_follows_the_number_of_blocks_is_found_in_what_is_computed(
    write_model: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an architecture that no test compares with plain transformers, the whole network is asked, too."""
    from transformers import AutoConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaModel

    from lensmith_plugins.language_models import cut as module

    folder = write_model(tmp_path, "llama", num_hidden_layers=3)
    whole = AutoConfig.from_pretrained(folder)
    network = LlamaForCausalLM.from_pretrained(folder, config=module.cut(whole, 2, "here"))
    monkeypatch.setattr(module, "TESTED", frozenset())
    module.check_cut(network, whole, "here")
    forward = LlamaModel.forward

    def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = forward(self, *args, **kwargs)
        found.last_hidden_state = found.last_hidden_state / self.config.num_hidden_layers
        return found

    monkeypatch.setattr(LlamaModel, "forward", scaled)
    with pytest.raises(ValueError, match="'llama' models cannot be cut by `layers`: what a block computes depends"):
        module.check_cut(network, whole, "here")
