"""Any method of peft on the language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lensmith import LensmithError, ParameterGroup
from lensmith_plugins.tuners import added_rows
from lensmith_plugins.tuners.adapters import FOLDER, ROOTS, WEIGHTS, AdapterTuner, root_of
from lensmith_plugins.tuners.peft_config import peft_config
from lensmith_plugins.tuners.peft_methods import ADAPTION_PROMPT, PREFIX
from lensmith_plugins.tuners.peft_spec import prefix_shape
from lensmith_plugins.tuners.prefix import Prefix
from lensmith_plugins.tuners.selection import bridge_group, part_group, tables, train_only
from lensmith_plugins.tuners.specs import BRIDGE

_PART = "language_model"


class PeftTuner(AdapterTuner):
    """Adapters by peft's own classes; prefixes through the decoder's cache, as peft's wrapper takes no embeddings."""

    @property
    def group(self) -> str:  # type: ignore[override]
        """The method's name."""
        return str(self.spec.method)

    def configs(self, model: nn.Module) -> dict[str, Any]:
        """The config of the method, its targets resolved to the language model's linear layers."""
        network = root_of(model, _PART)
        inside = ROOTS[_PART].removeprefix(f"{_PART}.")
        adapts = self.spec.method != ADAPTION_PROMPT
        layers = [name.removeprefix(inside) for name in self.spec.layers(tables(model))] if adapts else []
        base = str(getattr(network.config, "_name_or_path", "")) or None
        return {_PART: peft_config(self.spec, layers, network, base_model_name_or_path=base)}

    def prepare(self, model: nn.Module) -> None:
        """Put the method in and freeze the rest."""
        if self.spec.method != PREFIX:
            super().prepare(model)
            return
        self.attach(model)
        train_only(model, BRIDGE if self.spec.connector else ())
        model.language_model.prefix.requires_grad_(True)  # type: ignore[union-attr]
        if self.spec.added_tokens:
            added_rows.attach(model)
            added_rows.unfreeze(model)

    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        """Connector and the method."""
        groups = [bridge_group(model, self.spec.connector_lr), part_group(model, self.group, [_PART], None)]
        return [group for group in groups if group.names]

    def attach(self, model: nn.Module) -> None:
        """See `AdapterTuner.attach`."""
        if self.spec.method != PREFIX:
            super().attach(model)
        elif not hasattr(model.language_model, "prefix"):
            language_model: Any = model.language_model
            tokens = self.spec.config["num_virtual_tokens"]
            shape = prefix_shape(tokens, tables(model)[_PART]).shape
            layers = language_model.shape.layers
            language_model.prefix = Prefix(tokens, language_model.network, shape[1] // (2 * layers), layers)

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """See `AdapterTuner.save`."""
        if self.spec.method != PREFIX:
            return super().save(model, folder, state)
        network: Any = root_of(model, _PART)
        config, text = self._prefix_config(model), network.config.get_text_config()
        config.num_attention_heads, config.num_layers = text.num_attention_heads, text.num_hidden_layers
        config.num_transformer_submodules, config.inference_mode = 1, True
        target = folder / FOLDER
        target.mkdir()
        weight = state[f"{_PART}.prefix.weight"].detach().cpu().contiguous()
        save_file({"prompt_embeddings": weight}, target / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(target))
        return [FOLDER, *(added_rows.save_rows(folder, state) if self.spec.added_tokens else ())]

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        """See `AdapterTuner.load`."""
        if self.spec.method != PREFIX:
            super().load(model, folder, trainable=trainable)
            return
        self.attach(model)
        file = folder / FOLDER / WEIGHTS
        stored = load_file(file)
        own: Any = model.get_parameter(f"{_PART}.prefix.weight")
        found = stored.get("prompt_embeddings")
        if found is None or found.shape != own.shape:
            held = {name: tuple(tensor.shape) for name, tensor in stored.items()}
            raise ValueError(
                f"{file} does not fit the language model: prompt_embeddings should be"
                f" {tuple(own.shape)}, it holds {held}"
            )
        own.data.copy_(found)
        own.requires_grad_(trainable)
        if self.spec.added_tokens:
            added_rows.load_rows(model, folder, trainable=trainable)

    def plain_name(self, name: str) -> str | None:
        """See `AdapterTuner.plain_name`."""
        return None if name == f"{_PART}.prefix.weight" else super().plain_name(name)

    def merge(self, model: nn.Module) -> None:
        """See `AdapterTuner.merge`."""
        if self.spec.method == PREFIX:
            raise LensmithError(
                "adapters of 'prefix_tuning' cannot be merged: they are no change of weights; use the artifact as it is"
            )
        super().merge(model)

    def _prefix_config(self, model: nn.Module) -> Any:
        network: Any = root_of(model, _PART)
        width = model.language_model.prefix.width  # type: ignore[union-attr]
        base = str(getattr(network.config, "_name_or_path", "")) or None
        return peft_config(self.spec, [], network, token_dim=width, base_model_name_or_path=base)
