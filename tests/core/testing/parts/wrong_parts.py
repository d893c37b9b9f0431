"""A plugin of parts that keep every promise (`fine_…`) and of parts that break one each. This module is light."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lensmith import (
    BenchmarkSpec,
    Component,
    ConnectorShape,
    ConnectorSpec,
    ConversationSpec,
    ExporterSpec,
    ImageSplitterSpec,
    Kind,
    Parameters,
    ParameterShape,
    Size,
    TileLayout,
    TunerSpec,
    VisionEncoderSpec,
    VisionShape,
    hookimpl,
    linear,
    qualify,
)
from lensmith_plugins.language_models.specs import HfCausalSpec

api_version = 1


class FineConnectorSpec(ConnectorSpec):
    """One linear layer."""

    def shape(self, encoder: VisionShape, width: int) -> ConnectorShape:
        grid = None if encoder.extra_tokens else encoder.grid
        return ConnectorShape(encoder.tokens, width, grid, self.tensors(encoder.width, width))

    def tensors(self, inputs: int, width: int) -> Parameters:
        return linear("layer", inputs, width)


class UnreachedSpec(FineConnectorSpec):
    """It builds a layer that it does not use."""

    def tensors(self, inputs: int, width: int) -> Parameters:
        return super().tensors(inputs, width) + linear("spare", width, width)


class MisdeclaredSpec(FineConnectorSpec):
    """It declares a layer of another size than it builds."""

    def tensors(self, inputs: int, width: int) -> Parameters:
        return linear("layer", inputs + 1, width)


class OpaqueSpec(FineConnectorSpec):
    """Its default cannot be written as JSON."""

    thing: Any = object()
    """Anything."""


class UndescribedSpec(FineConnectorSpec):
    """One of its fields is not described."""

    gate: float = 1.0


class DemandingSpec(FineConnectorSpec):
    """It has a field without a default, and no `tiny`."""

    depth: int
    """How many layers. Required."""


class FineEncoderSpec(VisionEncoderSpec):
    """Four patches of 4 pixels, 6 wide."""

    def fresh(self) -> bool:
        return True

    def shape(self) -> VisionShape:
        tensors = ParameterShape("patch.weight", (6, 3, 4, 4)), ParameterShape("patch.bias", (6,))
        return VisionShape((8, 8), (2, 2), 6, parameters=tensors)


class NormedSpec(FineEncoderSpec):
    """The same with a batch norm."""

    def shape(self) -> VisionShape:
        plain = super().shape()
        norm = ParameterShape("norm.weight", (6,)), ParameterShape("norm.bias", (6,))
        return VisionShape((8, 8), (2, 2), 6, parameters=plain.parameters + norm)


class FineSplitterSpec(ImageSplitterSpec):
    """One view a picture, and a vector after it for each 100 pixels of its height."""

    def layout(self, image_size: Size, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        tokens = connector.tokens + min(4, image_size[0] // 100)
        return TileLayout(1, tokens, image_size, encoder.image_size)

    def largest(self, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        return self.layout((400, 1), encoder, connector)

    def parameters(self, width: int) -> Parameters:
        return (ParameterShape("end", (width,)),)


class UnderstatedSpec(FineSplitterSpec):
    """`largest` does not think of high pictures."""

    def largest(self, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        return self.layout(encoder.image_size, encoder, connector)


class TalkSpec(ConversationSpec):
    """`Q: question A: answer`."""


class FineTunerSpec(TunerSpec):
    """The connector."""

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        return qualify("connector", parts["connector"])


class LostSpec(FineTunerSpec):
    """The connector and the language model."""

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        return super().trainable(parts) + qualify("language_model", parts["language_model"])


class BitFitSpec(FineTunerSpec):
    """The connector, and the language model's norms (its biases, had it any)."""

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        vectors = tuple(tensor for tensor in parts["language_model"] if len(tensor.shape) == 1)
        return super().trainable(parts) + qualify("language_model", vectors)


class FineBenchmarkSpec(BenchmarkSpec):
    """Two questions."""

    @classmethod
    def tiny(cls, folder: Path) -> FineBenchmarkSpec:
        rows = [{"id": n, "question": f"{n} + 1?", "answer": str(n + 1)} for n in range(2)]
        (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return cls()


class DeafSpec(ExporterSpec):
    """A format of connectors."""


class CausalSpec(HfCausalSpec):
    """A causal language model."""

    @classmethod
    def tiny(cls, folder: Path) -> CausalSpec:
        from lensmith.testing import tiny_llama

        return cls(checkpoint=str(tiny_llama(folder)))


PARTS: dict[str, tuple[Kind, Any, str]] = {
    "fine_connector": (Kind.CONNECTOR, FineConnectorSpec, "FineConnector"),
    "fine_encoder": (Kind.VISION_ENCODER, FineEncoderSpec, "FineEncoder"),
    "fine_splitter": (Kind.IMAGE_SPLITTER, FineSplitterSpec, "FineSplitter"),
    "fine_talk": (Kind.CONVERSATION, TalkSpec, "FineTalk"),
    "fine_tuner": (Kind.TUNER, FineTunerSpec, "FineTuner"),
    "opaque": (Kind.CONNECTOR, OpaqueSpec, "FineConnector"),
    "undescribed": (Kind.CONNECTOR, UndescribedSpec, "FineConnector"),
    "demanding": (Kind.CONNECTOR, DemandingSpec, "FineConnector"),
    "misdeclared": (Kind.CONNECTOR, MisdeclaredSpec, "FineConnector"),
    "miscounting": (Kind.CONNECTOR, FineConnectorSpec, "Miscounting"),
    "unreached": (Kind.CONNECTOR, UnreachedSpec, "Unreached"),
    "forgetting": (Kind.CONNECTOR, FineConnectorSpec, "Forgetting"),
    "out_of_step": (Kind.CONNECTOR, FineConnectorSpec, "OutOfStep"),
    "homebound": (Kind.CONNECTOR, FineConnectorSpec, "Homebound"),
    "single_typed": (Kind.CONNECTOR, FineConnectorSpec, "SingleTyped"),
    "unseeded": (Kind.CONNECTOR, FineConnectorSpec, "Unseeded"),
    "sociable": (Kind.VISION_ENCODER, FineEncoderSpec, "Sociable"),
    "restless": (Kind.VISION_ENCODER, FineEncoderSpec, "Restless"),
    "understated": (Kind.IMAGE_SPLITTER, UnderstatedSpec, "FineSplitter"),
    "capped": (Kind.LANGUAGE_MODEL, CausalSpec, "Capped"),
    "leaky": (Kind.LANGUAGE_MODEL, CausalSpec, "Leaky"),
    "asking": (Kind.CONVERSATION, TalkSpec, "Asking"),
    "endless": (Kind.CONVERSATION, TalkSpec, "Endless"),
    "moody": (Kind.CONVERSATION, TalkSpec, "Moody"),
    "neglectful": (Kind.TUNER, FineTunerSpec, "Neglectful"),
    "lost": (Kind.TUNER, LostSpec, "Lost"),
    "fine_bitfit": (Kind.TUNER, BitFitSpec, "BitFit"),
    "fickle": (Kind.TUNER, BitFitSpec, "Fickle"),
    "normed": (Kind.VISION_ENCODER, NormedSpec, "Normed"),
    "fine_benchmark": (Kind.BENCHMARK, FineBenchmarkSpec, "FineBenchmark"),
    "forgiving": (Kind.BENCHMARK, FineBenchmarkSpec, "Forgiving"),
    "deaf": (Kind.EXPORTER, DeafSpec, "Deaf"),
}


@hookimpl
def lensmith_components() -> list[Component]:
    return [
        Component(
            kind,
            name,
            spec,
            f"wrong_modules:{implementation}",
            f"the part {name}",
            example=f"name: {name}\n" + ("checkpoint: some/model\n" if spec is CausalSpec else ""),
        )
        for name, (kind, spec, implementation) in PARTS.items()
    ]
