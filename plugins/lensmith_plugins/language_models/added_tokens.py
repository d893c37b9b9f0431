"""Special tokens that a spec adds: in the tokenizer, and as rows of the embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import tokenizers
import torch
from torch import Tensor, nn

from lensmith_plugins.language_models.hf_tokenizer import HfTokenizer
from lensmith_plugins.language_models.vocabulary import ADDED


def with_added_tokens(tokenizer: HfTokenizer, tokens: Sequence[str], held: Sequence[str]) -> HfTokenizer:
    """A tokenizer that knows more special tokens; their ids follow its own.

    Args:
        tokenizer: as it was read.
        tokens: what a spec adds. One that the tokenizer has stays as it is; an ordinary piece of its vocabulary
            becomes special under its own id.
        held: those that its files hold since they were saved with them.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend)
    wanted = [token for token in tokens if token not in tokenizer.added]
    if not wanted and not held:
        return tokenizer
    missing = [token for token in wanted if backend.token_to_id(token) is None]
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in wanted])
    ids = backend.get_vocab(with_added_tokens=True)
    return replace(
        tokenizer,
        backend=backend.to_str(),
        added={**tokenizer.added, **{token: ids[token] for token in wanted}},
        specials=(*tokenizer.specials, *wanted),
        appended=(*held, *missing),
    )


@torch.no_grad()
def add_rows(network: Any, tokens: Mapping[str, int], published: torch.dtype) -> None:
    """Give new tokens their rows in the input embeddings and the output head: the mean of all rows before them.

    So does the original LLaVA. The rows follow from the weights that are there, so an artifact that does not hold
    the language model needs not hold them either; they are rounded as the published weights are, lest they depend on
    the precision in which those are loaded. Nothing is sharded yet when this runs.

    Args:
        network: an `AutoModelForCausalLM`, on the meta device or not.
        tokens: ids of all added tokens by literal; those that the network's config lists have their rows already.
        published: floating type of the checkpoint.
    """
    held = set(getattr(network.config, ADDED, None) or ())
    new = [index for token, index in tokens.items() if token not in held]
    if not new:
        return
    old = int(network.get_input_embeddings().weight.shape[0])
    if max(new) >= old:
        network.resize_token_embeddings(max(new) + 1, mean_resizing=False)
    filled = [*new, *range(old, max(new) + 1)]  # a row that no id has yet is no worse for it
    for table in _tables(network):
        if table.device.type != "meta":
            mean = table[: min(old, *new)].to(torch.float64).mean(0)
            table[sorted(set(filled))] = mean.to(published).to(table.dtype)
    setattr(network.config, ADDED, list(tokens))


def grow(network: Any, rows: int) -> None:
    """Make embeddings and head that large, whatever is in the new rows."""
    if rows > network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(rows, mean_resizing=False)


def _tables(network: Any) -> list[Tensor]:
    """Everything that has an entry a token: input embeddings, and the head's weight and bias."""
    head: nn.Module = network.get_output_embeddings()
    found = [network.get_input_embeddings().weight, head.weight, getattr(head, "bias", None)]
    unique = {id(tensor): tensor for tensor in found if tensor is not None}
    return list(unique.values())
