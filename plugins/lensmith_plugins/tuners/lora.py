"""Low-rank adapters through peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lensmith import ParameterGroup, Tuner, parameter_shapes
from lensmith_plugins.tuners.selection import BRIDGE, bridge_group, part_group, train_only

_PREFIX = "language_model.network."
_ADAPTER = "adapter"


class LoraTuner(Tuner):
    """Adapters on the language model's linear layers; nothing else of it trains."""

    _wrapper: LoraModel | None = None
    _config: peft.LoraConfig

    def prepare(self, model: nn.Module) -> None:
        """Inject the adapters and freeze the rest."""
        if self._wrapper is None:
            self._inject(model)
        train_only(model, BRIDGE if self.spec.connector else ())
        for name, parameter in model.named_parameters():
            if name.startswith(_PREFIX) and "lora_" in name:
                parameter.requires_grad_(True)

    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        """Connector and adapters."""
        groups = [bridge_group(model, self.spec.connector_lr), part_group(model, "lora", ["language_model"], None)]
        return [group for group in groups if group.names]

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """Write `adapter/` in peft's own format, so that peft alone can load it onto the base model."""
        config = self._config
        named = {n.removeprefix(_PREFIX): t for n, t in state.items() if n.startswith(_PREFIX)}
        adapter = {
            f"base_model.model.{name.replace('.default.', '.')}": tensor.contiguous()
            for name, tensor in named.items()
            if "lora_" in name
        }
        if not adapter or any(tensor.numel() == 0 for tensor in adapter.values()):
            raise ValueError("the adapter's weights were not gathered; nothing was written")
        target = folder / _ADAPTER
        target.mkdir()
        save_file(adapter, target / "adapter_model.safetensors", metadata={"format": "pt"})
        was_training, config.inference_mode = config.inference_mode, True
        config.save_pretrained(str(target))
        config.inference_mode = was_training
        return [_ADAPTER]

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        """Inject the adapters that `save` wrote."""
        if self._wrapper is None:
            self._inject(model)
        file = folder / _ADAPTER / "adapter_model.safetensors"
        stored = load_file(file)
        own = {n: p for n, p in self._network(model).named_parameters() if "lora_" in n}
        expected = {f"base_model.model.{n.replace('.default.', '.')}": p for n, p in own.items()}
        missing, unknown = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
        misshapen = sorted(n for n in expected.keys() & stored.keys() if expected[n].shape != stored[n].shape)
        if missing or unknown or misshapen:
            raise ValueError(
                f"{file} does not fit the language model: missing {missing[:3]}, unknown {unknown[:3]},"
                f" other shapes {misshapen[:3]} ({len(missing)}, {len(unknown)} and {len(misshapen)} in all)"
            )
        for name, parameter in expected.items():
            parameter.data.copy_(stored[name])
            parameter.requires_grad_(trainable)

    def plain_name(self, name: str) -> str | None:
        """Names without peft's `base_layer`; adapters have none."""
        return None if "lora_" in name else name.replace(".base_layer.", ".")

    def merge(self, model: nn.Module) -> None:
        """Fold the adapters into the weights they adapt and take them out."""
        if self._wrapper is not None:
            model.language_model.network = self._wrapper.merge_and_unload()  # type: ignore[union-attr]
            self._wrapper = None

    def _network(self, model: nn.Module) -> Any:
        return model.language_model.network  # type: ignore[union-attr]

    def _inject(self, model: nn.Module) -> None:
        network = self._network(model)
        weights = self.spec.adapted(_without_head(model.language_model))
        layers = [w.name.removeprefix("network.").removesuffix(".weight") for w in weights]
        config = peft.LoraConfig(
            r=self.spec.rank,
            lora_alpha=self.spec.scale,
            lora_dropout=self.spec.dropout,
            target_modules=_shortest(layers, network),
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path=str(getattr(network.config, "_name_or_path", "")) or None,
        )
        # The wrapper replaces layers inside `network`; it is kept out of the module tree, which stays as it was.
        self._wrapper = LoraModel(network, {"default": config}, "default")
        self._config = config


def _without_head(language_model: Any) -> tuple[Any, ...]:
    head = language_model.shape.head
    return tuple(p for p in parameter_shapes(language_model) if p.name != head)


def _shortest(layers: list[str], network: nn.Module) -> list[str]:
    """Leaf names where they select exactly these layers (readable, portable), else the full names."""
    leaves = {layer.rpartition(".")[2] for layer in layers}
    selected = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in leaves
    }
    return sorted(leaves) if selected == set(layers) else sorted(layers)
