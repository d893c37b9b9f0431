"""Rows of tokens that the language model's spec adds, trained beside a frozen table by any tuner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lensmith import ParameterGroup
from lensmith.tensors import misfits, shapes_of
from lensmith_plugins.tuners.rows_spec import NAME, ROWS

FOLDER = NAME
_FILE = "rows.safetensors"


class AddedRows(nn.Module):
    """Rows (R, D) that stand in the place of a table's own: of the input embeddings, and of a head of its own.

    Args:
        network: the transformers model, from whose tables the rows start.
        ids: the tokens' ids, R of them.
    """

    place: Tensor

    def __init__(self, network: Any, ids: list[int]) -> None:
        super().__init__()
        embeddings, head = network.get_input_embeddings(), network.get_output_embeddings()
        table = embeddings.weight.detach()
        self.ids = ids
        self.embeddings = nn.Parameter(table[ids].clone())
        self.head = None if head.weight is embeddings.weight else nn.Parameter(head.weight.detach()[ids].clone())
        place = torch.full((table.shape[0],), -1, dtype=torch.long, device=table.device)
        place[ids] = torch.arange(len(ids), device=table.device)
        self.register_buffer("place", place, persistent=False)
        # Called as a module, so that ZeRO-3 gathers the rows.
        self._hooks = [
            embeddings.register_forward_hook(lambda module, args, output: self(module, args[0], output, False)),
            head.register_forward_hook(lambda module, args, output: self(module, args[0], output, True)),
        ]

    def forward(self, table: Any, inputs: Tensor, output: Tensor, at_head: bool) -> Tensor:
        """A table's output with that of the rows in it.

        Args:
            table: the embeddings or the head.
            inputs: ids (…), or hidden states (…, D).
            output: embeddings (…, D) of these ids, or logits (…, vocabulary).
            at_head: which of both.
        """
        if not at_head:
            place = self.place[inputs]
            rows = F.embedding(place.clamp(min=0), self.embeddings)
            scale = getattr(table, "embed_scale", None)  # Gemma's embeddings are scaled where they are looked up
            return torch.where(place[..., None] >= 0, rows if scale is None else rows * scale, output)
        weight = self.embeddings if self.head is None else self.head
        bias = getattr(table, "bias", None)
        index = torch.tensor(self.ids, device=output.device)
        own = F.linear(inputs, weight, None if bias is None else bias[index])
        return output.index_copy(-1, index, own.to(output.dtype))

    def detach(self) -> None:
        """Take it off the tables."""
        for hook in self._hooks:
            hook.remove()


def attach(model: Any) -> None:
    """Put the rows beside the tables, once; after what else goes around the language model."""
    language_model = model.language_model
    if not hasattr(language_model, NAME):
        tokenizer = language_model.tokenizer
        ids = [tokenizer.added[token] for token in tokenizer.appended]
        language_model.add_module(NAME, AddedRows(language_model.network, ids))


def rows_group(model: nn.Module) -> list[ParameterGroup]:
    """The rows, where they train, as a group."""
    trained = tuple(n for n, p in model.named_parameters() if n.startswith(ROWS) and p.requires_grad)
    return [ParameterGroup("added_tokens", trained)] if trained else []


def unfreeze(model: Any) -> None:
    """Have them train."""
    getattr(model.language_model, NAME).requires_grad_(True)


def save_rows(folder: Path, state: dict[str, Tensor]) -> list[str]:
    """Write them to a folder of their own; returns its name."""
    rows = {n.removeprefix(ROWS): t.detach().cpu().contiguous() for n, t in state.items() if n.startswith(ROWS)}
    (folder / FOLDER).mkdir()
    save_file(rows, folder / FOLDER / _FILE, metadata={"format": "pt"})
    return [FOLDER]


def load_rows(model: Any, folder: Path, *, trainable: bool) -> None:
    """Fill them from what `save_rows` wrote.

    Raises:
        ValueError: tensors that are missing or do not fit, by name.
    """
    attach(model)
    rows: nn.Module = getattr(model.language_model, NAME)
    file = folder / FOLDER / _FILE
    stored, own = load_file(file), dict(rows.named_parameters())
    if problems := misfits(shapes_of(own), shapes_of(stored)):
        raise ValueError(f"{file} does not fit the language model: {'; '.join(problems)}")
    for name, parameter in own.items():
        parameter.data.copy_(stored[name])
        parameter.requires_grad_(trainable)


def merge_rows(model: Any) -> None:
    """Put them into the tables and take them off."""
    language_model = model.language_model
    rows: AddedRows = getattr(language_model, NAME)
    network = language_model.network
    rows.detach()
    tables = [(network.get_input_embeddings(), rows.embeddings)]
    if rows.head is not None:
        tables.append((network.get_output_embeddings(), rows.head))
    with torch.no_grad():
        for table, own in tables:
            table.weight.data[rows.ids] = own.to(table.weight.dtype)
    delattr(language_model, NAME)
