"""Spec of the tuner that takes any of peft's methods. No torch here, but where a plan needs peft's own shapes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from lensmith import Parameters, ParameterShape
from lensmith_plugins.tuners.layers import layer_of
from lensmith_plugins.tuners.peft_methods import ADAPTION_PROMPT, PREFIX, REFUSED, RESERVED, fields_by_method
from lensmith_plugins.tuners.rows_spec import RowsSpec
from lensmith_plugins.tuners.specs import bridge
from lensmith_plugins.tuners.targets import ALL, layer, matching

_IA3 = ("k_proj", "v_proj", "down_proj", "fc2")
"""Keys, values and the way out of the feed-forward layer, as in the paper."""
_FROM_THE_MODEL = {"token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"}


class PeftSpec(RowsSpec):
    """A method of the peft library on the language model, by its name; the connector trains in full beside it."""

    method: str
    """The method, as peft's folder of it is named: `ia3`, `prefix_tuning`, `adaption_prompt`, `oft`, `hra`,
    `loha`, `lokr`, `vera`, `hra`, …"""
    config: dict[str, Any] = Field({})
    """Fields of peft's config class for it, e.g. `{num_virtual_tokens: 16}`. `target_modules` are names of linear
    layers of the language model (or one regular expression of whole names); by default all but the output head, for
    `ia3` the key, value and down projections."""
    connector: bool = True
    """Train the connector and the splitter's vectors in full beside it."""
    connector_lr: float | None = Field(None, gt=0)
    """Learning rate of the connector; by default the stage's."""

    @field_validator("method")
    @classmethod
    def _is_known(cls, method: str) -> str:
        if method in REFUSED:
            raise ValueError(f"{method!r} cannot be used here: {REFUSED[method]}")
        known = sorted(fields_by_method().keys() - REFUSED.keys())
        if known and method not in known:
            close = difflib.get_close_matches(method, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{method!r} is no method of the installed peft.{hint} There are: {', '.join(known)}.")
        return method

    @model_validator(mode="after")
    def _fields_are_known(self) -> PeftSpec:
        reserved = RESERVED | dict.fromkeys(_FROM_THE_MODEL, "it follows from the language model")
        if wrong := sorted(self.config.keys() & reserved.keys()):
            raise ValueError(f"config.{wrong[0]} is not yours to set: {reserved[wrong[0]]}")
        known = [f for f in fields_by_method().get(self.method, ()) if f not in reserved]
        if known and (unknown := sorted(self.config.keys() - set(known))):
            close = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"config.{unknown[0]} is no field of {self.method}.{hint} Fields: {', '.join(known)}.")
        needed = {PREFIX: ("num_virtual_tokens",), ADAPTION_PROMPT: ("adapter_len", "adapter_layers")}
        if missing := [name for name in needed.get(self.method, ()) if not _is_count(self.config.get(name))]:
            raise ValueError(f"{self.method} needs config.{missing[0]}, a number above 0")
        if self.method == PREFIX and self.config.get("prefix_projection"):
            raise ValueError(
                "config.prefix_projection: peft saves what it projects to, which cannot be trained further"
            )
        return self

    @classmethod
    def tiny(cls, folder: Path) -> PeftSpec:
        """See `PartSpec.tiny`."""
        return cls(method="prefix_tuning", config={"num_virtual_tokens": 2})

    def layers(self, parts: dict[str, Parameters]) -> list[str]:
        """The linear layers of the language model that are adapted, by their names in it.

        Raises:
            ValueError: a target that is no linear layer, with those there are.
        """
        tensors = parts.get("language_model", ())
        wanted = self.config.get("target_modules")
        if isinstance(wanted, str) and wanted != "all-linear":
            names = [layer(t) for t in tensors if t.linear or t.head]
            found = [n for n in names if re.fullmatch(wanted, n.removeprefix("network."))]
            if not found:
                raise ValueError(
                    f"config.target_modules {wanted!r} matches no linear layer, e.g. {', '.join(names[:3])}"
                )
            return found
        targets: Sequence[str] = [ALL] if wanted in (None, "all-linear") else wanted
        if self.method == "ia3" and wanted is None:
            leaves = {layer(t).rpartition(".")[2] for t in tensors if t.linear}
            targets = [leaf for leaf in _IA3 if leaf in leaves]
            if not targets:
                raise ValueError(f"set config.target_modules: none of {', '.join(_IA3)} is in the language model")
        return [layer(t) for t in matching("language_model", targets, tensors)]

    def lasting(self) -> dict[str, Any]:
        """See `TunerSpec.lasting`: neither dropout nor how the method's weights start."""
        config = {k: v for k, v in self.config.items() if "dropout" not in k and not k.startswith("init")}
        return {"method": self.method, "config": config, "added_tokens": self.added_tokens}

    def obstacles(self, *, activation_checkpointing: bool) -> list[str]:
        """A prefix is keys and values in the decoder's cache, which recomputed blocks run without."""
        if self.method == PREFIX and activation_checkpointing:
            return [
                "prefix_tuning hands its keys and values to the decoder in the KV cache, and blocks that are computed"
                " again in the backward pass run without one; set activation_checkpointing: false, or take another"
                " method"
            ]
        return []

    def check(self, parts: dict[str, Parameters]) -> None:
        """Targets, without peft."""
        self.rows(parts)
        if self.method == PREFIX:
            prefix_shape(self.config["num_virtual_tokens"], parts["language_model"])
        elif self.method == ADAPTION_PROMPT:
            _adaption(self.config, parts["language_model"])
        else:
            self.layers(parts)

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        """The method's tensors: in closed form for prefixes, else those that peft makes on a skeleton of the shapes.

        Raises:
            ValueError: peft cannot make them, in its words.
        """
        language_model = parts.get("language_model", ())
        if self.method == PREFIX:
            added: Parameters = (prefix_shape(self.config["num_virtual_tokens"], language_model),)
        elif self.method == ADAPTION_PROMPT:
            added = _adaption(self.config, language_model)
        else:
            from lensmith_plugins.tuners.skeleton import added_by_peft

            added = added_by_peft(self, parts)
        return (bridge(parts) if self.connector else ()) + added + self.rows(parts)


def prefix_shape(tokens: int, language_model: Parameters) -> ParameterShape:
    """Keys and values of `tokens` positions in every layer, (tokens, layers × 2 × width of the keys).

    Raises:
        ValueError: a language model whose key projections stand in no layer of their own.
    """
    keys = [t for t in language_model if layer(t).endswith(".k_proj") and t.linear]
    if not keys or len({t.shape[0] for t in keys}) > 1:
        raise ValueError(
            "prefix_tuning needs a language model with a `k_proj` of one width in every layer; this one has"
            f" {'several widths' if keys else 'none'}. Use lora, ia3 or another method"
        )
    return ParameterShape("language_model.prefix.weight", (tokens, len(keys) * 2 * keys[0].shape[0]))


def _adaption(config: dict[str, Any], language_model: Parameters) -> Parameters:
    """A prompt and a gate in each of the topmost layers."""
    queries = [t for t in language_model if layer(t).endswith(".q_proj")]
    count, length = config["adapter_layers"], config["adapter_len"]
    if not queries:
        raise ValueError("adaption_prompt needs attention with a `q_proj`, as LLaMA and Mistral have it")
    if count > len(queries):
        raise ValueError(f"config.adapter_layers {count}: the language model has {len(queries)} layers")
    added: list[ParameterShape] = []
    for query in sorted(queries, key=lambda t: layer_of(t.name) or 0)[-count:]:
        attention = f"language_model.{layer(query).removesuffix('.q_proj')}"
        added.append(ParameterShape(f"{attention}.adaption_prompt", (1, length, query.shape[1])))
        added.append(ParameterShape(f"{attention}.adaption_gate", (1,)))
    return tuple(added)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
