"""Low-rank adapters over a language model in 4 bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from lensmith import Kind, LensmithError, Loading, implementation
from lensmith_plugins.tuners.adapters import ROOTS, root_of
from lensmith_plugins.tuners.lora import LoraTuner
from lensmith_plugins.tuners.selection import tables
from lensmith_plugins.tuners.targets import layer

_PART = "language_model"
_INSIDE = ROOTS[_PART].removeprefix(f"{_PART}.")
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class QLoraTuner(LoraTuner):
    """The language model is quantised while it is read, or, where it is in memory already (random or merged weights),
    layer by layer in place. The weights that an artifact must hold in full are those before quantisation."""

    _dtype: torch.dtype | None = None
    _plain: dict[str, Tensor] | None = None

    def loading(self, dtype: torch.dtype) -> dict[str, Loading]:
        """The language model in 4 bits, straight from its files.

        Raises:
            LensmithError: bitsandbytes is not installed.
        """
        if unmet := self.spec.unmet(zero=0):
            raise LensmithError(unmet[0])
        self._dtype = dtype
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.spec.double_quantization,
            bnb_4bit_compute_dtype=self._compute(dtype),
        )
        options: dict[str, Any] = {"quantization_config": config, "device_map": {"": _device()}}
        return {_PART: Loading(torch.float32, options=options)}

    def prepare(self, model: nn.Module) -> None:
        """Quantise what is not yet, inject the adapters and freeze the rest."""
        from lensmith_plugins.tuners.quantisation import rounding

        plain = self._quantise(model)
        if _PART in model.changed:  # type: ignore[operator]
            # Now, as the folder that they come from may be gone when the run ends.
            self._plain = {name: tensor.cpu() for name, tensor in (plain or self._weights(model)).items()}
            if plain:
                moved = rounding(root_of(model, _PART), {n.removeprefix(_INSIDE): t for n, t in plain.items()})
                self.notes = (
                    f"the language model's whole weights are quantised to 4 bits: {len(plain)} are rounded"
                    f" anew, by {moved:.1%} of their size, so the first loss is not quite that of what it begins from",
                )
        super().prepare(model)

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        """Quantise what is not yet, then as LoRA."""
        self._quantise(model)
        super().load(model, folder, trainable=trainable)

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """Write `adapter/`, and the unquantised language model where no checkpoint of it is left to name."""
        written = super().save(model, folder, state)
        if _PART in model.changed:  # type: ignore[operator]
            target = folder / _PART
            target.mkdir()
            own = {
                plain.removeprefix(f"{_PART}."): parameter.detach().cpu()
                for name, parameter in model.named_parameters()
                if name.startswith(f"{_PART}.") and (plain := self.plain_name(name))
            }
            network = root_of(model, _PART)
            with _unmarked(network):
                model.language_model.save(target, own | (self._plain or self._weights(model)))  # type: ignore[union-attr,operator]
            written.append(_PART)
        return written

    def merge(self, model: nn.Module) -> None:
        """Fold the adapters into the dequantised weights: exact but for rounding, not requantised."""
        from lensmith_plugins.tuners.quantisation import dequantise, mark

        injected = self._injected.pop(_PART, None)
        network = root_of(model, _PART)
        dtype = self._dtype or torch.float32
        if injected is None:
            dequantise(network, dtype)
            mark(network, quantised=False)
            super().merge(model)
            return
        kept = {name: model.get_parameter(ROOTS[_PART] + name).detach().clone() for name in injected.added}
        injected.wrapper.unload()
        dequantise(network, dtype)
        mark(network, quantised=False)
        # The same adapters over ordinary layers, which peft merges without quantising again.
        again = type(injected).into(network, self.configs(model)[_PART])
        for name, tensor in kept.items():
            network.get_parameter(name).data.copy_(tensor)
        self._injected[_PART] = again
        super().merge(model)

    def _quantise(self, model: nn.Module) -> dict[str, Tensor]:
        """Returns the weights that were still whole, by their names in the language model."""
        if self._injected:
            return {}
        from lensmith_plugins.tuners.quantisation import mark, quantise

        language_model: Any = model.language_model
        network = language_model.network
        dtype = self._dtype or next(p.dtype for p in network.parameters() if p.is_floating_point())
        layers = [layer(p).removeprefix(_INSIDE) for p in tables(model)[_PART] if p.linear]
        if self.spec.quantize_head:
            layers.append(self._head(language_model))
        plain = quantise(network, layers, compute=self._compute(dtype), double=self.spec.double_quantization)
        for parameter in network.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        mark(network, quantised=True)
        return {_INSIDE + name: tensor for name, tensor in plain.items()}

    def _head(self, language_model: Any) -> str:
        name = str(language_model.shape.head).removeprefix(_INSIDE).removesuffix(".weight")
        if not isinstance(language_model.network.get_submodule(name), nn.Linear):
            raise LensmithError("quantize_head: the output head is tied to the embeddings, which are not quantised")
        return name

    def _weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The language model's own weights, read again from where they come from."""
        spec: Any = model.spec.language_model  # type: ignore[union-attr]
        part = implementation(Kind.LANGUAGE_MODEL, spec).build(spec, Loading(self._dtype or torch.float32))
        return {name: parameter.detach() for name, parameter in part.named_parameters()}

    def _compute(self, dtype: torch.dtype) -> torch.dtype:
        return dtype if self.spec.compute == "auto" else _TYPES[self.spec.compute]


def _device() -> str:
    """Where this process computes: weights are quantised there."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


class _unmarked:
    """transformers does not save a network that says it is quantised; the weights that are saved are not."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.kept = {name: getattr(network, name, None) for name in ("hf_quantizer", "is_quantized")}
        self.config = getattr(network.config, "quantization_config", None)

    def __enter__(self) -> None:
        from lensmith_plugins.tuners.quantisation import mark

        mark(self.network, quantised=False)

    def __exit__(self, *_: object) -> None:
        self.network.is_loaded_in_4bit = True
        for name, value in self.kept.items():
            setattr(self.network, name, value)
        if self.config is not None:
            self.network.config.quantization_config = self.config
