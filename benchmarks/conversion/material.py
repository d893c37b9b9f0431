"""An original LLaVA checkpoint of a given size with random bf16 weights, written shard by shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lensmith.conversion.stored import Stored, write_weights
from lensmith.interfaces.shapes import Parameters
from lensmith_plugins.language_models.shapes import language_shape
from lensmith_plugins.vision_encoders.clip_shape import DEFAULTS, vision_shape


@dataclass(frozen=True)
class Size:
    """Of a decoder.

    Args:
        width, inner, layers, heads: as its config says.
    """

    width: int
    inner: int
    layers: int
    heads: int


SIZES = {"1b": Size(2048, 5632, 16, 16), "7b": Size(4096, 11008, 32, 32)}
VISION = {
    **DEFAULTS,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""CLIP ViT-L/14 at 336 pixels."""
VOCABULARY = 32000
TOWER = "model.vision_tower.vision_tower.vision_model."


def write(folder: Path, size: Size) -> int:
    """Write model, tower and tokenizer to an empty folder; its number of bytes."""
    tower = folder / "clip"
    tower.mkdir()
    (tower / "config.json").write_text(json.dumps({**VISION, "model_type": "clip_vision_model"}))
    settings = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    (tower / "preprocessor_config.json").write_text(json.dumps(settings))
    decoder = {
        "model_type": "llama",
        "hidden_size": size.width,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    own = {
        "model_type": "llava_llama",
        "mm_vision_tower": str(tower),
        "mm_hidden_size": VISION["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": "pad",
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps({**decoder, **own}))
    _tokenizer(folder)
    tensors = dict(_tensors(decoder, size.width))
    write_weights(folder, tensors)
    return sum(stored.size for stored in tensors.values())


def _tensors(decoder: dict[str, object], width: int) -> Iterator[tuple[str, Stored]]:
    shape = language_shape(decoder, None)
    assert shape is not None
    yield from _random(shape.parameters, "network.", "")
    tower = vision_shape(VISION, VISION["num_hidden_layers"], cls_token=False).parameters
    yield from _random(tower, "network.", TOWER)
    for leaf, fill in (("weight", 1.0), ("bias", 0.0)):
        yield f"{TOWER}post_layernorm.{leaf}", _stored((VISION["hidden_size"],), fill)
    for place, inputs in ((0, VISION["hidden_size"]), (2, width)):
        yield f"model.mm_projector.{place}.weight", _stored((width, inputs), None)
        yield f"model.mm_projector.{place}.bias", _stored((width,), 0.0)


def _random(parameters: Parameters, drop: str, prefix: str) -> Iterator[tuple[str, Stored]]:
    for parameter in parameters:
        fill = 1.0 if len(parameter.shape) == 1 and parameter.name.endswith("weight") else None
        yield prefix + parameter.name.removeprefix(drop), _stored(parameter.shape, fill)


def _stored(shape: tuple[int, ...], fill: float | None) -> Stored:
    """One value everywhere, or normal numbers of a model that nobody trained."""

    def load() -> torch.Tensor:
        if fill is not None:
            return torch.full(shape, fill, dtype=torch.bfloat16)
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)

    return Stored(shape, torch.bfloat16, load)


def _tokenizer(folder: Path) -> None:
    """As many tokens as the model has rows, of which a test reads only the first."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
