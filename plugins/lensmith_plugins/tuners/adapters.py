"""Adapters that peft puts into a part: injected, written in peft's format, read back and folded in."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lensmith import LensmithError, ParameterGroup, Tuner
from lensmith.tensors import misfits, shapes_of
from lensmith_plugins.tuners import added_rows
from lensmith_plugins.tuners.peft_library import PEFT_TYPE_TO_TUNER_MAPPING, get_peft_model_state_dict
from lensmith_plugins.tuners.rows_spec import ROWS
from lensmith_plugins.tuners.selection import bridge_group, part_group, train_only
from lensmith_plugins.tuners.specs import BRIDGE

FOLDER = "adapter"
WEIGHTS = "adapter_model.safetensors"
_NAME = "default"
ROOTS = {"language_model": "language_model.network.", "vision_encoder": "vision_encoder."}
"""By part: the prefix of the module that adapters go into. The language model's is what plain peft would wrap."""


def root_of(model: nn.Module, part: str) -> Any:
    """That module."""
    return model.get_submodule(ROOTS[part].rstrip("."))


@dataclass
class Injected:
    """The adapters in one module.

    Args:
        root: the module; its layers were replaced inside it.
        wrapper: peft's model around it. It is kept out of the module tree, which stays as it was.
        config: peft's.
        plain: for each parameter of `root`, the name that it had without adapters; None where it is new.
    """

    root: nn.Module
    wrapper: Any
    config: Any
    plain: dict[str, str | None]

    @classmethod
    def into(cls, root: nn.Module, config: Any) -> Injected:
        """Inject fresh adapters.

        Raises:
            ValueError: peft cannot, in its words.
        """
        before = {id(parameter): name for name, parameter in root.named_parameters()}
        try:
            wrapper = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](root, {_NAME: config}, _NAME)
        except (TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return cls(root, wrapper, config, {n: before.get(id(p)) for n, p in root.named_parameters()})

    @property
    def added(self) -> list[str]:
        """Names of the adapters' own parameters below `root`."""
        return [name for name, plain in self.plain.items() if plain is None]

    def tensors(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The adapters' tensors out of the module's, by the names that peft gives them in a file."""
        own = {f"model.{name}": tensor for name, tensor in named.items()}
        found = get_peft_model_state_dict(self.wrapper, state_dict=own, save_embedding_layers=False)
        return {f"base_model.{name}": tensor for name, tensor in found.items()}

    def write(self, folder: Path, named: Mapping[str, Tensor]) -> None:
        """Write peft's two files.

        Raises:
            ValueError: weights that were not gathered.
        """
        everything = dict(self.root.named_buffers()) | dict(named)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors(everything).items()}
        if not tensors or any(tensor.numel() == 0 for tensor in tensors.values()):
            raise ValueError("the adapter's weights were not gathered; nothing was written")
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        was, self.config.inference_mode = self.config.inference_mode, True
        self.config.save_pretrained(str(folder))
        self.config.inference_mode = was

    def read(self, folder: Path, part: str) -> None:
        """Fill the adapters from a file that `write` wrote.

        Raises:
            ValueError: tensors that are missing or do not fit, by name.
        """
        file = folder / WEIGHTS
        stored = load_file(file)
        expected = self.tensors(dict(self.root.named_parameters()) | dict(self.root.named_buffers()))
        if problems := misfits(shapes_of(expected), shapes_of(stored)):
            raise ValueError(f"{file} does not fit the {part.replace('_', ' ')}: {'; '.join(problems)}")
        for name, tensor in expected.items():
            tensor.data.copy_(stored[name])

    def fold(self) -> None:
        """Put the adapters into the weights they adapt and take them out."""
        self.wrapper.merge_and_unload()


class AdapterTuner(Tuner, abc.ABC):
    """Adapters on linear layers beside a connector that trains in full."""

    group = "adapter"
    """Name of the adapters' parameter group."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self._injected: dict[str, Injected] = {}

    @abc.abstractmethod
    def configs(self, model: nn.Module) -> dict[str, Any]:
        """peft's config for each part that is adapted."""

    def prepare(self, model: nn.Module) -> None:
        """Inject the adapters and freeze the rest."""
        self.attach(model)
        train_only(model, BRIDGE if self.spec.connector else ())
        for part, injected in self._injected.items():
            for name in injected.added:
                model.get_parameter(ROOTS[part] + name).requires_grad_(True)
        if self.spec.added_tokens:
            added_rows.attach(model)
            added_rows.unfreeze(model)

    def groups(self, model: nn.Module) -> list[ParameterGroup]:
        """Connector, and adapters by part."""
        encoder = part_group(model, f"{self.group} vision_encoder", ["vision_encoder"], self.encoder_lr)
        groups = [
            bridge_group(model, self.spec.connector_lr),
            part_group(model, self.group, ["language_model"], None),
            encoder,
        ]
        return [group for group in groups if group.names]

    @property
    def encoder_lr(self) -> float | None:
        """Learning rate of adapters on the vision encoder."""
        return getattr(self.spec, "vision_encoder_lr", None)

    def save(self, model: nn.Module, folder: Path, state: dict[str, Tensor]) -> list[str]:
        """Write `adapter/` in peft's own format, so that peft alone can load it onto the base model.

        Adapters on the vision encoder are in a folder of it, `adapter/vision_encoder/`.
        """
        for part, injected in self._injected.items():
            prefix = ROOTS[part]
            named = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            injected.write(_folder(folder, part), named)
        return [FOLDER, *(added_rows.save_rows(folder, state) if self.spec.added_tokens else ())]

    def load(self, model: nn.Module, folder: Path, *, trainable: bool) -> None:
        """Inject the adapters that `save` wrote."""
        self.attach(model)
        for part, injected in self._injected.items():
            injected.read(_folder(folder, part), part)
            for name in injected.added:
                model.get_parameter(ROOTS[part] + name).requires_grad_(trainable)
        if self.spec.added_tokens:
            added_rows.load_rows(model, folder, trainable=trainable)

    def plain_name(self, name: str) -> str | None:
        """Names as they are without peft's layers; adapters and the rows of added tokens have none."""
        if name.startswith(ROWS):
            return None
        for part, injected in self._injected.items():
            prefix = ROOTS[part]
            if name.startswith(prefix) and name.removeprefix(prefix) in injected.plain:
                plain = injected.plain[name.removeprefix(prefix)]
                return None if plain is None else prefix + plain
        return name

    def merge(self, model: nn.Module) -> None:
        """Fold the adapters into the weights they adapt and take them out.

        Raises:
            LensmithError: the method has nothing that could be folded into weights.
        """
        for injected in self._injected.values():
            if not hasattr(injected.wrapper, "merge_and_unload"):
                raise LensmithError(
                    f"adapters of {getattr(self.spec, 'method', self.spec.name)!r} cannot be merged: they are no change"
                    " of weights; use the artifact as it is"
                )
            injected.fold()
        self._injected = {}
        if self.spec.added_tokens:
            added_rows.merge_rows(model)

    def attach(self, model: nn.Module) -> None:
        """Inject the adapters, once."""
        if not self._injected:
            for part, config in self.configs(model).items():
                self._injected[part] = Injected.into(root_of(model, part), config)


def _folder(artifact: Path, part: str) -> Path:
    return artifact / FOLDER if part == "language_model" else artifact / FOLDER / part


def shortest(layers: list[str], root: nn.Module) -> list[str]:
    """Leaf names where they select exactly these layers (readable, portable), else the full names."""
    leaves = {layer.rpartition(".")[2] for layer in layers}
    # Whatever they are: peft adapts convolutions of the same name too.
    selected = {name for name, _ in root.named_modules() if name.rpartition(".")[2] in leaves}
    return sorted(leaves) if selected == set(layers) else sorted(layers)
