"""The golden tiny model in the layouts that it could have been published in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lensmith

TOWER = "model.vision_tower.vision_tower."


def weights_of(artifact: Path) -> dict[str, Tensor]:
    """Every tensor of an artifact, by folder and name."""
    found = {}
    for file in sorted(artifact.rglob("*.safetensors")):
        place = file.parent.relative_to(artifact)
        found |= {f"{place}/{file.stem if place == Path() else ''}/{n}": t for n, t in load_file(file).items()}
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.fixture(scope="session")
def golden_model(shared: Path) -> Path:
    return shared / "golden" / "model"


@pytest.fixture(scope="session")
def tower(golden_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CLIP model that the golden one was made of."""
    folder = tmp_path_factory.mktemp("tower")
    for file in (golden_model / "tiny_clip").iterdir():
        shutil.copyfile(file, folder / file.name)
    weights = load_file(golden_model / "weights_backbone.safetensors")
    own = {name.removeprefix(TOWER): tensor for name, tensor in weights.items() if name.startswith(TOWER)}
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of a few words, read in no time, where the ids do not matter."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("words")
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "USER:": 3, "ASSISTANT:": 4, "a": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def decoder(golden_model: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LLaMA that the golden one was made of."""
    folder = tmp_path_factory.mktemp("decoder")
    weights = load_file(golden_model / "weights_backbone.safetensors")
    own = {name: tensor for name, tensor in weights.items() if not name.startswith(TOWER)}
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(golden_model / "tiny_llama" / "config.json", folder / "config.json")
    for file in words.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture(scope="session")
def golden_config(golden_model: Path, tower: Path) -> Callable[..., dict[str, Any]]:
    """A config.json of the original, with changes."""
    plain = json.loads((golden_model / "tiny_llama" / "config.json").read_text())
    own = {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": str(tower),
        "mm_hidden_size": 48,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "use_mm_proj": True,
        "image_aspect_ratio": "pad",
        "torch_dtype": "float32",
    }
    return lambda **changes: {k: v for k, v in (plain | own | changes).items() if v is not None}


Original = Callable[..., Path]


@pytest.fixture(scope="session")
def original(golden_model: Path, words: Path, golden_config: Any, tmp_path_factory: pytest.TempPathFactory) -> Original:
    """Write the golden model as the original code does: any projector, in one file or several, with or without CLIP."""

    def write(
        projector: str = "mlp2x_gelu",
        *,
        pickled: bool = False,
        shards: int = 1,
        tower: bool = True,
        tokenizer: Path = words,
        **changes: Any,
    ) -> Path:
        folder = tmp_path_factory.mktemp("original")
        weights = load_file(golden_model / "weights_backbone.safetensors")
        weights |= load_file(golden_model / f"mm_projector_{projector}.safetensors")
        if changes.get("mm_patch_merge_type") == "spatial_unpad":
            weights |= load_file(golden_model / "image_newline.safetensors")
        weights = {n: t for n, t in weights.items() if tower or not n.startswith(TOWER)}
        names = sorted(weights)
        stem, end = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
        places = {}
        for number in range(shards):
            file = f"{stem}.{end}" if shards == 1 else f"{stem}-{number + 1:05}-of-{shards:05}.{end}"
            own = {n: weights[n] for n in names[number::shards]}
            places |= dict.fromkeys(own, file)
            if pickled:
                torch.save(own, folder / file)
            else:
                save_file(own, folder / file, metadata={"format": "pt"})
        if shards > 1:
            (folder / f"{stem}.{end}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        (folder / "config.json").write_text(json.dumps(golden_config(mm_projector_type=projector, **changes)))
        for file in tokenizer.iterdir():
            shutil.copyfile(file, folder / file.name)
        return folder

    return write


@pytest.fixture(scope="session")
def imported(original: Original, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of the golden model with `mlp2x_gelu`, padding and LLaMA's own tokenizer."""
    folder = tmp_path_factory.mktemp("imported") / "artifact"
    source = original(pickled=True, shards=3, tokenizer=shared / "tokenizer" / "vicuna_v1_5")
    return lensmith.import_checkpoint(source, folder).folder


@pytest.fixture(scope="session")
def exported(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for transformers."""
    folder = tmp_path_factory.mktemp("exported") / "hf"
    lensmith.export(imported, folder, to="hf")
    return folder


@pytest.fixture(scope="session")
def lora(shared: Path, decoder: Path, tower: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LoRA folder that the original's recorded training run wrote."""
    folder = tmp_path_factory.mktemp("lora")
    record = json.loads((shared / "golden" / "train" / "stage2_lora.json").read_text())
    final = load_file(shared / "golden" / "train" / "stage2_lora.safetensors")
    final = {n.removeprefix("final."): t for n, t in final.items() if n.startswith("final.")}
    adapters = {n.replace(".default.", "."): t for n, t in final.items() if "lora_" in n}
    extras = {n: t for n, t in final.items() if "mm_projector" in n}
    save_file(adapters, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    torch.save(extras, folder / "non_lora_trainables.bin")
    (folder / "adapter_config.json").write_text(json.dumps(record["adapter_config.json"]))
    (folder / "config.json").write_text(json.dumps(record["config.json"] | {"mm_vision_tower": str(tower)}))
    assert record["files"]["adapter_model.safetensors"].keys() == adapters.keys()
    assert record["files"]["non_lora_trainables.bin"].keys() == extras.keys()
    return folder
