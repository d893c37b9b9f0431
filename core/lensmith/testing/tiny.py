"""What a part's `tiny()` may need: a tokenizer trained on a few words, and weights that hide no mistake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""A block a message, in the words of ChatML (OpenAI 2023)."""
_TEXT = ["USER: What colour is it? ASSISTANT: red green blue user assistant system"] * 4


def tiny_tokenizer(specials: Sequence[str] = (), *, chat_template: str | None = None, bos: str | None = None) -> Any:
    """A byte-level BPE of about 300 ids that spells every text, as a fast tokenizer of transformers.

    Args:
        specials: special tokens besides `<|endoftext|>` (which pads), `<|im_start|>` and `<|im_end|>` (the end token).
        chat_template: its Jinja chat template, e.g. `CHAT_TEMPLATE`.
        bos: the special token at the start of a row; by default none.

    Returns:
        A `PreTrainedTokenizerFast`; `save_pretrained(folder)` writes its files.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    known = list(dict.fromkeys([END, START, STOP, *([bos] if bos else []), *specials]))
    trainer = trainers.BpeTrainer(
        vocab_size=290 + len(known),
        special_tokens=known,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TEXT, trainer)
    names = {"eos_token": STOP, "pad_token": END, "bos_token": bos, "chat_template": chat_template}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=256,
        **{name: value for name, value in names.items() if value is not None},
    )


def tiny_llama(folder: Path, *, chat_template: str | None = None, layers: int = 2) -> Path:
    """Write a LLaMA, 64 wide, with its tokenizer, as `save_pretrained` would.

    Args:
        folder: an empty folder.
        chat_template: of its tokenizer.
        layers: how many.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(chat_template=chat_template)
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    scatter(LlamaForCausalLM(config)).save_pretrained(folder)  # type: ignore[operator]
    return folder


def scatter(module: nn.Module, std: float = 0.1) -> nn.Module:
    """Move every parameter at random: ones and zeros would hide a scale or a bias that is left out."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * std)
    return module
