"""What the benchmark trains on: parts with random weights, saved as checkpoints, pictures and rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = ("the", "a", "small", "large", "red", "green", "blue", "picture", "shows", "what", "colour", "is", "it", "and")


def tokenizer(folder: Path) -> Any:
    """A byte-level BPE of a few words, saved as transformers would."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.save_pretrained(folder)
    return fast


def parts(folder: Path, vision: dict[str, Any], language: dict[str, Any], *, dtype: str, device: str) -> dict[str, Any]:
    """Save both networks and return the spec's model section.

    Args:
        folder: gets `encoder` and `language_model`.
        vision, language: configs of CLIP's vision model and of LLaMA.
        dtype: of the saved weights, e.g. "bfloat16".
        device: where the random weights are drawn.
    """
    import torch
    from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, LlamaConfig

    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    with torch.device(device):
        CLIPVisionModel(CLIPVisionConfig(**vision)).to(kind).save_pretrained(folder / "encoder")
        fast = tokenizer(folder / "language_model")
        ids = {"bos_token_id": None, "eos_token_id": fast.eos_token_id, "pad_token_id": fast.pad_token_id}
        network = AutoModelForCausalLM.from_config(LlamaConfig(**(language | ids)), dtype=kind)
        network.save_pretrained(folder / "language_model")
    size = vision["image_size"]
    settings = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    (folder / "encoder" / "preprocessor_config.json").write_text(json.dumps(settings))
    return {
        "vision_encoder": {"name": "clip", "checkpoint": str(folder / "encoder")},
        "image_splitter": "pad",
        "connector": {"name": "mlp", "depth": 2},
        "language_model": {"name": "llama", "checkpoint": str(folder / "language_model")},
        "conversation": "chatml",
    }


def rows(folder: Path, count: int, size: int, words: int) -> Path:
    """Rows of a noise picture and an answer of so many words."""
    from PIL import Image

    draw = random.Random(0)
    for number in range(8):
        Image.effect_noise((size, size), 60 + number).convert("RGB").save(folder / f"{number}.png")
    lines = []
    for number in range(count):
        answer = " ".join(draw.choice(WORDS) for _ in range(words))
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": answer}]
        lines.append(json.dumps({"id": str(number), "image": f"{number % 8}.png", "conversations": turns}))
    file = folder / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file
