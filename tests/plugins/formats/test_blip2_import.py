"""BLIP-2 and InstructBLIP of transformers: the same features of a picture, and the same logits after them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BertTokenizerFast,
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

import lensmith
from lensmith import LensmithError

VISION = {"num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
VISION |= {"hidden_size": 32, "intermediate_size": 64}
QFORMER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
QFORMER |= {"encoder_hidden_size": 32, "vocab_size": 60}
OPT = {"model_type": "opt", "vocab_size": 60, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2}
OPT |= {"num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 32}


def write(folder: Path, words: Path, *, instruct: bool, **text: Any) -> Any:
    """A tiny model of random weights, saved as transformers does."""
    torch.manual_seed(3)
    config: Any = InstructBlipConfig if instruct else Blip2Config
    model: Any = InstructBlipForConditionalGeneration if instruct else Blip2ForConditionalGeneration
    made = model(
        config(
            vision_config=VISION,
            qformer_config=QFORMER,
            text_config={**OPT, **text},
            num_query_tokens=4,
            image_token_index=59,
        )
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    made.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 28, "width": 28}}))
    for file in words.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    if instruct:
        (folder / "qformer_tokenizer").mkdir()
        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "it", "?"]))
        BertTokenizerFast(str(vocabulary)).save_pretrained(folder / "qformer_tokenizer")
        vocabulary.unlink()
    return made.eval()


@pytest.mark.parametrize("instruct", [False, True])
@torch.no_grad()
def test_the_same_logits(words: Path, tmp_path: Path, instruct: bool) -> None:
    theirs = write(tmp_path / "source", words, instruct=instruct)
    artifact = lensmith.import_checkpoint(tmp_path / "source", tmp_path / "artifact").folder
    model = lensmith.load(artifact)
    pixels = torch.randn(1, 3, 28, 28)
    layout = model.pictures.layout(28, 28)
    assert layout.tokens == 4
    shown = model.connect(model.encode(pixels), [layout], ["what is it ?"])

    ids = torch.tensor([[59] * 4 + [1, 7, 9, 11]])
    arguments = {"pixel_values": pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if instruct:
        text = BertTokenizerFast.from_pretrained(tmp_path / "source" / "qformer_tokenizer")("what is it ?")
        arguments["qformer_input_ids"] = torch.tensor([text["input_ids"]])
        arguments["qformer_attention_mask"] = torch.ones_like(arguments["qformer_input_ids"])
    expected = theirs(**arguments).logits[0]

    embeds = torch.cat([shown[None], model.language_model.embed(ids[:, 4:])], dim=1)
    places = torch.arange(8)[None]
    logits = model.language_model.head(model.language_model(embeds, places, torch.ones_like(places)))[0]
    torch.testing.assert_close(logits, expected, rtol=2e-5, atol=2e-5)


def test_every_tensor_is_kept(words: Path, tmp_path: Path) -> None:
    write(tmp_path / "source", words, instruct=False)
    artifact = lensmith.import_checkpoint(tmp_path / "source", tmp_path / "artifact").folder
    stored = load_file(tmp_path / "source" / "model.safetensors")
    held = [load_file(artifact / f"{part}/model.safetensors") for part in ("vision_encoder", "language_model")]
    held.append(load_file(artifact / "connector.safetensors"))
    assert sum(map(len, held)) == len(stored)
    assert json.loads((artifact / "manifest.json").read_text())["imported"]["recognised"] == "a BLIP-2 model"


def test_an_encoder_decoder_is_refused(words: Path, tmp_path: Path) -> None:
    write(tmp_path / "source", words, instruct=False)
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    config["text_config"] = {"model_type": "t5", "d_model": 32, "is_encoder_decoder": True}
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    with pytest.raises(LensmithError, match="its language model is a 't5', an encoder and a decoder"):
        lensmith.import_checkpoint(tmp_path / "source", tmp_path / "artifact")
