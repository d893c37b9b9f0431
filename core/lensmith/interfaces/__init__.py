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
    from lensmith.interfaces.benchmark import Benchmark, BenchmarkSpec, JudgedSpec
    from lensmith.interfaces.connector import Connector
    from lensmith.interfaces.image_splitter import ImageSplitter
    from lensmith.interfaces.language_model import GenerationOptions, LanguageModel
    from lensmith.interfaces.loading import Loading
    from lensmith.interfaces.memory import Memory
    from lensmith.interfaces.tuner import ParameterGroup, Tuner
    from lensmith.interfaces.vision_encoder import Preprocessing, VisionEncoder

_LAZY = {
    "Benchmark": "benchmark",
    "BenchmarkSpec": "benchmark",
    "Connector": "connector",
    "GenerationOptions": "language_model",
    "ImageSplitter": "image_splitter",
    "JudgedSpec": "benchmark",
    "LanguageModel": "language_model",
    "Loading": "loading",
    "Memory": "memory",
    "ParameterGroup": "tuner",
    "Preprocessing": "vision_encoder",
    "Tuner": "tuner",
    "VisionEncoder": "vision_encoder",
}

__all__ = [
    "Benchmark",
    "BenchmarkSpec",
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
    "JudgedSpec",
    "LanguageModel",
    "LanguageModelSpec",
    "LanguageShape",
    "Loading",
    "Memory",
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
