"""Adapters out of an artifact in PEFT's format, and read back through PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lensmith import Kind, assemble, implementation
from lensmith.conversion.held import Held
from lensmith.files import write_json
from lensmith.io.json import read_object
from lensmith_plugins.tuners.adapters import FOLDER, WEIGHTS
from lensmith_plugins.tuners.peft_library import peft

if TYPE_CHECKING:
    from lensmith.model import MultimodalModel

CONFIG = "adapter_config.json"


def copy_adapters(held: Held, folder: Path) -> None:
    """Write PEFT's two files; the config names the base as the artifact does."""
    shutil.copyfile(held.folder / FOLDER / WEIGHTS, folder / WEIGHTS)
    config = read_object(held.folder / FOLDER / CONFIG)
    config["base_model_name_or_path"] = held.recorded("language_model", "checkpoint")
    write_json(folder / CONFIG, config)


def adapted_model(held: Held, folder: Path) -> MultimodalModel:
    """The artifact's model with its base's weights, and on them the adapters that PEFT reads from a folder.

    Connector and splitter have the artifact's weights.
    """
    assert held.tuner is not None
    tuner = implementation(Kind.TUNER, held.tuner)(held.tuner)
    model = assemble(held.spec, dtype=held.dtype, tuner=tuner, pretrained_connector=False)
    for part in ("connector", "image_splitter"):
        own = getattr(model, part)
        own.load_state_dict({name: stored.load().to(held.dtype) for name, stored in held.small(part).items()})
    network = model.language_model.network
    peft.PeftModel.from_pretrained(network, str(folder), autocast_adapter_dtype=False)  # its layers go into `network`
    return model.requires_grad_(False).eval()
