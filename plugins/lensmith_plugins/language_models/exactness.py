"""What a decoder must do to be composed from its pieces, and a look at whether one that no test knows does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lensmith.tested import installed, libraries

if TYPE_CHECKING:
    from lensmith_plugins.language_models.hf import HfCausalLanguageModel

TESTED = frozenset(
    {
        "bloom",
        "cohere",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
        "stablelm",
    }
)
"""Architectures that the tests compare with plain transformers in every respect; they are not looked at again, unless
the installed transformers is none of those that were tested."""
_LENGTH, _PADDING = 7, 3


@torch.no_grad()
def check_exact(model: HfCausalLanguageModel) -> None:
    """Compare a model, decoded from input embeddings, with its own network on a few ids.

    A model that packs samples wrongly is told to give each a row of its own instead, one whose memory does not give
    what decoding at once gives, to have none.

    Raises:
        ValueError: embeddings, decoder and head do not make the network's logits, or padding on the left changes
            what follows; names the architecture.
    """
    architecture = str(model.network.config.get_text_config().model_type)
    weight = model.network.get_input_embeddings().weight
    known = architecture in TESTED and libraries()["transformers"].holds(installed("transformers") or "")
    if known or weight.device.type == "meta":
        return
    training = model.network.training
    model.network.eval()
    try:
        ids = torch.arange(3, 3 + _LENGTH, device=weight.device) % len(weight)
        steps = torch.arange(_LENGTH, device=weight.device)
        hidden = _hidden(model, ids, steps, torch.ones_like(ids))
        if not _close(model.head(hidden), model.network(input_ids=ids[None]).logits[0]):
            raise ValueError(
                f"{architecture!r} models do more to ids or logits than their embeddings, decoder and output head say,"
                " so they cannot be used through input embeddings"
            )
        nothing = ids.new_zeros(_PADDING)
        padded = _hidden(model, *(torch.cat([nothing, row]) for row in (ids, steps, torch.ones_like(ids))))
        if not _close(padded[_PADDING:], hidden):
            raise ValueError(
                f"{architecture!r} models do not heed the attention mask, so prompts of different lengths cannot be"
                " answered together; choose another language model"
            )
        two = torch.arange(1, 3, device=weight.device).repeat_interleave(_LENGTH)
        packed = _hidden(model, ids.repeat(2), steps.repeat(2), two)
        if not _close(packed, hidden.repeat(2, 1)):
            model.unpack()
        if not _remembers(model, ids, hidden):
            model.forget()
    finally:
        model.network.train(training)


def _hidden(model: HfCausalLanguageModel, ids: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
    hidden: Tensor = model(model.embed(ids[None]), positions[None], segments[None])[0]
    return hidden


def _remembers(model: HfCausalLanguageModel, ids: Tensor, hidden: Tensor) -> bool:
    """Whether two equal branches behind the first ids are what they are without a memory."""
    memory = model.memory()
    if memory is None:
        return False
    begin = _LENGTH // 2
    steps = torch.arange(_LENGTH, device=ids.device)[None]
    own = torch.ones(_LENGTH - begin, _LENGTH - begin, dtype=torch.bool, device=ids.device).tril()
    before = own.new_ones(2 * len(own), begin)
    apart = torch.cat([torch.cat([own, own & False], dim=1), torch.cat([own & False, own], dim=1)])
    visible = torch.cat([before, apart], dim=1)[None]
    embeds = model.embed(ids[None])
    try:
        first = model.recall(embeds[:, :begin], steps[:, :begin], None, memory)
        rest = model.recall(embeds[:, begin:].repeat(1, 2, 1), steps[:, begin:].repeat(1, 2), visible, memory)
    except Exception:  # whatever a decoder says to a cache of keys and values that it does not have
        return False
    return _close(torch.cat([first[0], rest[0]]), torch.cat([hidden, hidden[begin:]]))


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding. What goes wrong here goes wrong by the size of the values."""
    tolerance = 1e-3 if one.dtype == torch.float32 else 0.1
    return bool((one - other).abs().max() <= tolerance * other.abs().max())
