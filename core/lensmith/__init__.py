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
from lensmith_registry import API_VERSION, Component, Kind, PartSpec, Probe, Registry, discover, hookimpl

if TYPE_CHECKING:
    from lensmith.ablation.engine import ablate
    from lensmith.assembly import assemble
    from lensmith.conversion.exporting import export
    from lensmith.conversion.importing import import_checkpoint
    from lensmith.data.image_inputs import decode_image
    from lensmith.evaluation.run import evaluate
    from lensmith.inference.scoring import Likelihood
    from lensmith.interfaces import (
        Benchmark,
        BenchmarkSpec,
        Connector,
        GenerationOptions,
        ImageSplitter,
        JudgedSpec,
        LanguageModel,
        Loading,
        Memory,
        ParameterGroup,
        Preprocessing,
        Tuner,
        VisionEncoder,
    )
    from lensmith.interfaces.formats import Exporter, ExporterSpec, Found, Importer, ImporterSpec, PartFiles
    from lensmith.interfaces.module_shapes import parameter_shapes, shape_code
    from lensmith.loading import load
    from lensmith.merging import merge
    from lensmith.model import MultimodalModel
    from lensmith.parts import implementation
    from lensmith.planning import plan
    from lensmith.spec import RunSpec, load_spec
    from lensmith.training import train

_LAZY = {
    "Benchmark": "lensmith.interfaces",
    "BenchmarkSpec": "lensmith.interfaces",
    "Connector": "lensmith.interfaces",
    "Exporter": "lensmith.interfaces.formats",
    "ExporterSpec": "lensmith.interfaces.formats",
    "Found": "lensmith.interfaces.formats",
    "GenerationOptions": "lensmith.interfaces",
    "ImageSplitter": "lensmith.interfaces",
    "Importer": "lensmith.interfaces.formats",
    "ImporterSpec": "lensmith.interfaces.formats",
    "JudgedSpec": "lensmith.interfaces",
    "LanguageModel": "lensmith.interfaces",
    "Likelihood": "lensmith.inference.scoring",
    "Loading": "lensmith.interfaces",
    "Memory": "lensmith.interfaces",
    "MultimodalModel": "lensmith.model",
    "ParameterGroup": "lensmith.interfaces",
    "PartFiles": "lensmith.interfaces.formats",
    "Preprocessing": "lensmith.interfaces",
    "RunSpec": "lensmith.spec",
    "Tuner": "lensmith.interfaces",
    "VisionEncoder": "lensmith.interfaces",
    "ablate": "lensmith.ablation.engine",
    "assemble": "lensmith.assembly",
    "decode_image": "lensmith.data.image_inputs",
    "evaluate": "lensmith.evaluation.run",
    "export": "lensmith.conversion.exporting",
    "implementation": "lensmith.parts",
    "import_checkpoint": "lensmith.conversion.importing",
    "load": "lensmith.loading",
    "load_spec": "lensmith.spec",
    "merge": "lensmith.merging",
    "parameter_shapes": "lensmith.interfaces.module_shapes",
    "plan": "lensmith.planning",
    "shape_code": "lensmith.interfaces.module_shapes",
    "train": "lensmith.training",
}

__all__ = [
    "API_VERSION",
    "ArtifactError",
    "Benchmark",
    "BenchmarkSpec",
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
    "Exporter",
    "ExporterSpec",
    "Found",
    "GenerationOptions",
    "ImageSplitter",
    "ImageSplitterSpec",
    "Importer",
    "ImporterSpec",
    "IncompatibleParts",
    "JudgedSpec",
    "Kind",
    "LanguageModel",
    "LanguageModelSpec",
    "LanguageShape",
    "LensmithError",
    "Likelihood",
    "Loading",
    "Memory",
    "MultimodalModel",
    "ParameterGroup",
    "ParameterShape",
    "Parameters",
    "PartFiles",
    "PartSpec",
    "Pieces",
    "Preprocessing",
    "Probe",
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
    "ablate",
    "assemble",
    "decode_image",
    "discover",
    "evaluate",
    "export",
    "hookimpl",
    "hub_file",
    "implementation",
    "import_checkpoint",
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
    "shape_code",
    "train",
]


_RENAMED: dict[str, str] = {}
"""Names that are going, with those that take their place; see docs/api_policy.md."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lensmith")
    if name in _RENAMED:
        import warnings

        text = f"lensmith.{name} is deprecated: use lensmith.{_RENAMED[name]}"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(__name__), _RENAMED[name])
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
