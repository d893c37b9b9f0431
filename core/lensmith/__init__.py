"""Lensmith: compose, train, evaluate and ship large multimodal models.

A plugin author needs this import alone. It is light: what needs torch is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lensmith.checkpoints import Checkpoint, SpecPath, hub_file, is_hub_id, read_config
from lensmith.errors import ArtifactError, DataError, LensmithError, Problem, SpecError, TrainingError
from lensmith.interfaces import (
    ChatText,
    ConnectorShape,
    ConnectorSpec,
    Conversation,
    ConversationError,
    ConversationSpec,
    ImageSplitterSpec,
    IncompatibleParts,
    LanguageModelSpec,
    LanguageShape,
    Parameters,
    ParameterShape,
    Pieces,
    Segment,
    TileLayout,
    Tokenizer,
    TunerSpec,
    Turn,
    VisionEncoderSpec,
    VisionShape,
)
from lensmith.interfaces.shapes import Box, Size, linear, norm
from lensmith.interfaces.specs import qualify
from lensmith_registry import Component, Kind, PartSpec, Registry, discover, hookimpl

if TYPE_CHECKING:
    from lensmith.assembly import assemble
    from lensmith.interfaces import (
        Connector,
        GenerationOptions,
        ImageSplitter,
        LanguageModel,
        Loading,
        ParameterGroup,
        Preprocessing,
        Tuner,
        VisionEncoder,
    )
    from lensmith.interfaces.vision_encoder import parameter_shapes
    from lensmith.loading import load
    from lensmith.merging import merge
    from lensmith.model import MultimodalModel
    from lensmith.parts import implementation
    from lensmith.planning import plan
    from lensmith.spec import RunSpec, load_spec
    from lensmith.training import train

_LAZY = {
    "Connector": "lensmith.interfaces",
    "GenerationOptions": "lensmith.interfaces",
    "ImageSplitter": "lensmith.interfaces",
    "LanguageModel": "lensmith.interfaces",
    "Loading": "lensmith.interfaces",
    "MultimodalModel": "lensmith.model",
    "ParameterGroup": "lensmith.interfaces",
    "Preprocessing": "lensmith.interfaces",
    "RunSpec": "lensmith.spec",
    "Tuner": "lensmith.interfaces",
    "VisionEncoder": "lensmith.interfaces",
    "assemble": "lensmith.assembly",
    "implementation": "lensmith.parts",
    "load": "lensmith.loading",
    "load_spec": "lensmith.spec",
    "merge": "lensmith.merging",
    "parameter_shapes": "lensmith.interfaces.vision_encoder",
    "plan": "lensmith.planning",
    "train": "lensmith.training",
}

__all__ = [
    "ArtifactError",
    "Box",
    "ChatText",
    "Checkpoint",
    "Component",
    "Connector",
    "ConnectorShape",
    "ConnectorSpec",
    "Conversation",
    "ConversationError",
    "ConversationSpec",
    "DataError",
    "GenerationOptions",
    "ImageSplitter",
    "ImageSplitterSpec",
    "IncompatibleParts",
    "Kind",
    "LanguageModel",
    "LanguageModelSpec",
    "LanguageShape",
    "LensmithError",
    "Loading",
    "MultimodalModel",
    "ParameterGroup",
    "ParameterShape",
    "Parameters",
    "PartSpec",
    "Pieces",
    "Preprocessing",
    "Problem",
    "Registry",
    "RunSpec",
    "Segment",
    "Size",
    "SpecError",
    "SpecPath",
    "TileLayout",
    "Tokenizer",
    "TrainingError",
    "Tuner",
    "TunerSpec",
    "Turn",
    "VisionEncoder",
    "VisionEncoderSpec",
    "VisionShape",
    "assemble",
    "discover",
    "hookimpl",
    "hub_file",
    "implementation",
    "is_hub_id",
    "linear",
    "load",
    "load_spec",
    "merge",
    "norm",
    "parameter_shapes",
    "plan",
    "qualify",
    "read_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
