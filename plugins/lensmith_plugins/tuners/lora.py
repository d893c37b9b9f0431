"""Low-rank adapters through peft."""

from __future__ import annotations

from typing import Any

from torch import nn

from lensmith_plugins.tuners.adapters import ROOTS, AdapterTuner, root_of, shortest
from lensmith_plugins.tuners.peft_library import peft
from lensmith_plugins.tuners.selection import tables
from lensmith_plugins.tuners.targets import layer

_INIT: dict[str, bool | str] = {"kaiming": True, "gaussian": "gaussian", "orthogonal": "orthogonal"}


class LoraTuner(AdapterTuner):
    """Adapters on the linear layers that the spec names, found by component and full name; nothing else of their
    parts trains."""

    group = "lora"

    def configs(self, model: nn.Module) -> dict[str, Any]:
        """One `LoraConfig` a part."""
        found = {}
        for part, weights in self.spec.adapted(tables(model)).items():
            root = root_of(model, part)
            inside = ROOTS[part].removeprefix(f"{part}.")
            layers = [layer(weight).removeprefix(inside) for weight in weights]
            language = part == "language_model"
            found[part] = peft.LoraConfig(
                r=self.spec.rank,
                lora_alpha=self.spec.scale,
                lora_dropout=self.spec.dropout,
                use_rslora=self.spec.rslora,
                use_dora=self.spec.dora,
                init_lora_weights=_INIT[self.spec.init],
                target_modules=shortest(layers, root),
                bias="none",
                task_type="CAUSAL_LM" if language else None,
                base_model_name_or_path=str(getattr(getattr(root, "config", None), "_name_or_path", "")) or None,
            )
        return found
