"""One small LLaVA twice, with the same random weights: as a Lensmith spec, and as transformers has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIDE, PATCH = 336, 14
"""24 x 24 picture positions, as LLaVA-1.5 has them."""
VISION = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
LANGUAGE = {
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
IMAGE_TOKEN = "<picture>"
"""The last id, which transformers replaces by picture features."""
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE_TOKEN)


def tokenizer(folder: Path, size: int) -> None:
    """A tokenizer of whole words, so that every id has a text of its own and answers can be compared as text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["user", "assistant", "\n", *(f"w{number}" for number in range(size - len(SPECIALS) - 4)), "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*SPECIALS, *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    made.decoder = decoders.Metaspace(prepend_scheme="never")
    made.add_special_tokens(list(SPECIALS))
    PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<unk>"
    ).save_pretrained(folder)


def parts(folder: Path, language: dict[str, Any] = LANGUAGE, dtype: Any = None) -> dict[str, Any]:
    """Save both networks with random weights (fp32 by default); the spec's model section."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    encoder = CLIPVisionModel(CLIPVisionConfig(**VISION))
    encoder.to(dtype or encoder.dtype).save_pretrained(folder / "encoder")
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    (folder / "encoder" / "preprocessor_config.json").write_text(json.dumps(size))
    tokenizer(folder / "language_model", language["vocab_size"])
    ids = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    network = LlamaForCausalLM(LlamaConfig(**(language | ids)))
    network.to(dtype or network.dtype).save_pretrained(folder / "language_model")
    return {
        "vision_encoder": {"name": "clip", "checkpoint": str(folder / "encoder")},
        "image_splitter": "square",
        "connector": {"name": "mlp", "depth": 2},
        "language_model": {"name": "llama", "checkpoint": str(folder / "language_model")},
        "conversation": "chatml",
    }


def transformers_twin(model: Any, folder: Path, *, share: bool = False) -> Any:
    """transformers' model with the weights of an assembled one, whose parts `parts` saved in `folder`.

    With `share` the language model's weights are the same tensors, not copies.
    """
    from transformers import CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    encoder = CLIPVisionModel.from_pretrained(folder / "encoder")
    config = LlavaConfig(
        vision_config=encoder.config,
        text_config=LlamaConfig.from_pretrained(folder / "language_model"),
        image_token_id=SPECIALS.index(IMAGE_TOKEN),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    twin = LlavaForConditionalGeneration(config)
    twin.model.vision_tower.load_state_dict(encoder.state_dict())
    network = model.language_model.network
    twin.model.language_model.load_state_dict(network.model.state_dict(keep_vars=share), assign=share)
    twin.lm_head.load_state_dict(network.lm_head.state_dict(keep_vars=share), assign=share)
    ours = list(model.connector.parameters())
    theirs = list(twin.model.multi_modal_projector.parameters())
    for one, other in zip(theirs, ours, strict=True):
        one.data.copy_(other.data)
    twin.generation_config.pad_token_id = 0
    twin.generation_config.eos_token_id = 2
    return twin.eval()
