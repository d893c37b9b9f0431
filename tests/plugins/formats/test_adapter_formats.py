"""LoRA folders in and out, bit by bit; PEFT's format; merged on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

import lensmith
from lensmith import LensmithError, SpecError

from .conftest import same, weights_of


@pytest.fixture(scope="module")
def artifact(lora: Path, decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora-artifact") / "artifact"
    return lensmith.import_checkpoint(lora, folder, options=[f"base={decoder}"]).folder


def test_the_lora_folder_comes_back_bit_by_bit(artifact: Path, lora: Path, decoder: Path, tmp_path: Path) -> None:
    lensmith.export(artifact, tmp_path / "lora", to="llava")
    assert same(
        load_file(lora / "adapter_model.safetensors"), load_file(tmp_path / "lora" / "adapter_model.safetensors")
    )
    extras = [torch.load(f / "non_lora_trainables.bin", weights_only=True) for f in (lora, tmp_path / "lora")]
    assert same(*extras)
    again = lensmith.import_checkpoint(tmp_path / "lora", tmp_path / "again", options=[f"base={decoder}"]).folder
    assert same(weights_of(artifact), weights_of(again))


def test_merged_on_the_way_out(artifact: Path, lora: Path, decoder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="adapters of 'lora' beside the weights; merge them with --merge"):
        lensmith.export(artifact, tmp_path / "hf", to="hf")
    lensmith.export(artifact, tmp_path / "hf", to="hf", merge=True)
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf")
    stored, base = load_file(lora / "adapter_model.safetensors"), load_file(decoder / "model.safetensors")
    name = "layers.0.self_attn.v_proj"
    down, up = (stored[f"base_model.model.model.{name}.lora_{factor}.weight"] for factor in "AB")
    expected = base[f"model.{name}.weight"] + 2.0 * up @ down
    torch.testing.assert_close(model.model.language_model.get_parameter(f"{name}.weight").data, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]
    lensmith.export(artifact, tmp_path / "llava", to="llava", merge=True)
    whole = lensmith.import_checkpoint(tmp_path / "llava", tmp_path / "whole").folder
    kept = weights_of(whole)[f"language_model//model.{name}.weight"]
    torch.testing.assert_close(kept, expected)


def test_adapters_alone(artifact: Path, lora: Path, decoder: Path, tmp_path: Path) -> None:
    done = lensmith.export(artifact, tmp_path / "peft", to="peft")
    assert done is not None
    assert sorted(path.name for path in (tmp_path / "peft").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        decoder
    )
    base = AutoModelForCausalLM.from_pretrained(decoder)
    ids = torch.arange(3, 12)[None]
    with torch.inference_mode():
        plain = base(input_ids=ids).logits.clone()
        worn = PeftModel.from_pretrained(base, tmp_path / "peft")(input_ids=ids).logits
        ours = lensmith.load(artifact).language_model.network(input_ids=ids).logits
    torch.testing.assert_close(worn, ours, rtol=2e-5, atol=2e-5)
    assert not torch.allclose(worn, plain, atol=1e-2)


def test_a_model_without_adapters_has_none_to_export(imported: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"peft cannot express this: there are no adapters \(nothing was trained\)"):
        lensmith.export(imported, tmp_path / "peft", to="peft")


SETTINGS = [
    ({"peft_type": "IA3"}, "its adapters are 'IA3', only LORA is imported"),
    ({"modules_to_save": ["lm_head"]}, "sets modules_to_save, which the lora tuner does not"),
    ({"bias": "all"}, "its adapters train biases"),
    ({"target_modules": ".*proj"}, "is no list of names"),
]


@pytest.mark.parametrize(("changes", "message"), SETTINGS, ids=str)
def test_adapters_of_another_kind_are_refused(
    lora: Path, decoder: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    for file in lora.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "adapter_config.json").unlink()
    config = json.loads((lora / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    with pytest.raises(LensmithError, match=message):
        lensmith.import_checkpoint(folder, tmp_path / "artifact", options=[f"base={decoder}"])
