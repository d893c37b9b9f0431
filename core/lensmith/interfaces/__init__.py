"""The interfaces that parts implement. This module is light; the torch halves are imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lensmith.interfaces.shapes import (
    ConnectorShape,
    LanguageShape,
    Parameters,
    ParameterShape,
    TileLayout,
    VisionShape,
)
from lensmith.interfaces.specs import (
    ConnectorSpec,
    ConversationSpec,
    ImageSplitterSpec,
    IncompatibleParts,
    LanguageModelSpec,
    TunerSpec,
    VisionEncoderSpec,
)
from lensmith.interfaces.text import ChatText, Conversation, ConversationError, Pieces, Segment, Tokenizer, Turn

if TYPE_CHECKING:
    from lensmith.interfaces.connector import Connector
    from lensmith.interfaces.image_splitter import ImageSplitter
    from lensmith.interfaces.language_model import GenerationOptions, LanguageModel
    from lensmith.interfaces.loading import Loading
    from lensmith.interfaces.tuner import ParameterGroup, Tuner
    from lensmith.interfaces.vision_encoder import Preprocessing, VisionEncoder

_LAZY = {
    "Connector": "connector",
    "GenerationOptions": "language_model",
    "ImageSplitter": "image_splitter",
    "LanguageModel": "language_model",
    "Loading": "loading",
    "ParameterGroup": "tuner",
    "Preprocessing": "vision_encoder",
    "Tuner": "tuner",
    "VisionEncoder": "vision_encoder",
}

__all__ = [
    "ChatText",
    "Connector",
    "ConnectorShape",
    "ConnectorSpec",
    "Conversation",
    "ConversationError",
    "ConversationSpec",
    "GenerationOptions",
    "ImageSplitter",
    "ImageSplitterSpec",
    "IncompatibleParts",
    "LanguageModel",
    "LanguageModelSpec",
    "LanguageShape",
    "Loading",
    "ParameterGroup",
    "ParameterShape",
    "Parameters",
    "Pieces",
    "Preprocessing",
    "Segment",
    "TileLayout",
    "Tokenizer",
    "Tuner",
    "TunerSpec",
    "Turn",
    "VisionEncoder",
    "VisionEncoderSpec",
    "VisionShape",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"lensmith.interfaces.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
