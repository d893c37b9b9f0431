"""Numbered layers of a part, found by the names of its tensors. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lensmith import Parameters, ParameterShape, PartSpec

_NUMBERED = re.compile(r"(?:^|\.)(?:layers?|blocks?|resblocks|stages|h)\.(\d+)\.")
"""`model.layers.3.…`, `transformer.h.3.…`, `decoder.blocks.3.…`: the outermost number counts."""
_NUMBERS = re.compile(r"(\d+)(?:\s*-\s*(\d+))?\Z")
_EMBEDDINGS = {"wte", "wpe", "cls_token", "reg_token"}
_WORDS = ("all", "embeddings", "head", "rest")


class LayerSettings(PartSpec):
    """Tensors of a part that train with settings of their own."""

    layers: str = "all"
    """Which: numbers and ranges from 0 and the words `embeddings`, `head`, `rest` (what no other entry names), with
    commas between, e.g. `16-31` or `0-3, 8, embeddings`; `all` by default."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate; by default the part's, else the stage's."""
    weight_decay: float | None = Field(None, ge=0)
    """Decoupled weight decay, never on biases and norms; by default the stage's."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Layer-wise decay (arXiv 2106.08254, appendix): the last layer has `lr`, each one below this times the rate of the
    one above, the embeddings that of a layer below the first. Needs `lr`. By default none."""

    @field_validator("layers", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("layers")
    @classmethod
    def _readable(cls, value: str) -> str:
        for item in _items(value):
            found = _NUMBERS.match(item)
            if item not in _WORDS and not found:
                raise ValueError(f"{item!r} is neither a layer, a range like 16-31, nor one of {', '.join(_WORDS)}")
            if found and found[2] and int(found[2]) < int(found[1]):
                raise ValueError(f"the range {item} ends before it begins")
        if not _items(value):
            raise ValueError("names no layer; `all` is every tensor of the part")
        if "all" in _items(value) and len(_items(value)) > 1:
            raise ValueError("`all` stands alone; `rest` is what no other entry names")
        return value

    @model_validator(mode="after")
    def _rate_to_decay(self) -> LayerSettings:
        if self.layer_decay is not None and self.lr is None:
            raise ValueError("layer_decay needs an `lr`, the rate of the last layer")
        return self

    def names(self) -> Sequence[str]:
        """Its items, e.g. `["0-3", "8", "embeddings"]`."""
        return _items(self.layers)


def as_settings(value: Any) -> Any:
    """`true` is all of a part, `false` nothing, a mapping short for a list of one, text for a mapping of `layers`."""
    if isinstance(value, str):
        value = {"layers": value}
    if isinstance(value, bool):
        return [{}] if value else []
    return [value] if isinstance(value, (dict, LayerSettings)) else value


SettingsInput = BeforeValidator(as_settings, json_schema_input_type=bool | str | LayerSettings | list[LayerSettings])
"""What a spec may write for a list of `LayerSettings`."""


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor belongs to; None outside of them."""
    found = _NUMBERED.search(name)
    return int(found[1]) if found else None


def assign(part: str, entries: Sequence[LayerSettings], tensors: Parameters) -> list[tuple[LayerSettings, Parameters]]:
    """The tensors of each entry, in order; a tensor that none names is left out.

    Args:
        part: its name, for messages.
        entries: from the spec.
        tensors: of the part, unqualified.

    Raises:
        ValueError: a layer or word that the part does not have, with those there are; a tensor that two entries name.
    """
    groups = _Groups(part, tensors)
    taken: dict[str, str] = {}
    chosen: list[set[str]] = []
    for entry in entries:
        own: set[str] = set()
        for item in entry.names():
            own |= groups.select(item) if item != "rest" else set()
        for name in sorted(own):
            if name in taken:
                raise ValueError(f"{part}: {name} is in {taken[name]!r} and in {entry.layers!r}; an entry each")
            taken[name] = entry.layers
        chosen.append(own)
    resting = [number for number, entry in enumerate(entries) if "rest" in entry.names()]
    if len(resting) > 1:
        raise ValueError(f"{part}: {len(resting)} entries name `rest`; one may")
    for number in resting:
        chosen[number] |= {tensor.name for tensor in tensors} - taken.keys()
    return [(entry, tuple(t for t in tensors if t.name in own)) for entry, own in zip(entries, chosen, strict=True)]


def depth(tensors: Parameters) -> int:
    """How many layers there are."""
    return 1 + max((number for t in tensors if (number := layer_of(t.name)) is not None), default=-1)


def height_of(tensor: ParameterShape, layers: int) -> int:
    """Where a tensor lies: its layer, -1 below the first (embeddings), the number of layers above the last."""
    number = layer_of(tensor.name)
    if number is not None:
        return number
    below = _is_embedding(tensor) or any(word.startswith("pre") or word == "norm_pre" for word in _words(tensor))
    return -1 if below else layers


class _Groups:
    """The named groups of a part's tensors."""

    def __init__(self, part: str, tensors: Parameters) -> None:
        self.part, self.tensors = part, tensors
        self.layers = sorted({n for t in tensors if (n := layer_of(t.name)) is not None})
        outside = [t for t in tensors if layer_of(t.name) is None]
        self.embeddings = [t for t in outside if _is_embedding(t)]
        # A head is as large as the vocabulary's embeddings; a tied one is their tensor.
        vocabulary = max((t.shape for t in self.embeddings if len(t.shape) == 2), default=None)
        self.head = [t for t in outside if t not in self.embeddings and t.shape == vocabulary]

    def select(self, item: str) -> set[str]:
        if item == "all":
            return _names(self.tensors)
        if item == "embeddings":
            return self._there(self.embeddings, "embeddings are not among its tensors")
        if item == "head":
            return self._there(self.head, "it has no head of its own (a tied head is trained with `embeddings`)")
        found = _NUMBERS.match(item)
        assert found is not None
        first, last = int(found[1]), int(found[2] or found[1])
        wanted = range(first, last + 1)
        if not self.layers:
            raise ValueError(f"{self.part}: layers {item}: none of its tensors belongs to a numbered layer")
        if missing := [n for n in wanted if n not in self.layers]:
            raise ValueError(
                f"{self.part}: layers {item}: there is no layer {missing[0]}; it has {self.layers[0]}-{self.layers[-1]}"
            )
        return {t.name for t in self.tensors if layer_of(t.name) in wanted}

    def _there(self, tensors: list[ParameterShape], message: str) -> set[str]:
        if not tensors:
            raise ValueError(f"{self.part}: {message}")
        return _names(tensors)


def _is_embedding(tensor: ParameterShape) -> bool:
    return any("embed" in word or word in _EMBEDDINGS for word in _words(tensor))


def _words(tensor: ParameterShape) -> list[str]:
    return tensor.name.lower().split(".")


def _names(tensors: Iterable[ParameterShape]) -> set[str]:
    return {tensor.name for tensor in tensors}


def _items(value: str) -> list[str]:
    return [item for item in (piece.strip() for piece in value.split(",")) if item]
