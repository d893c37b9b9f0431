"""The spec classes that a part's own spec derives from, with the shape half of each interface. No torch here."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.interfaces.shapes import (
    ConnectorShape,
    LanguageShape,
    Parameters,
    Size,
    TileLayout,
    VisionShape,
)
from lensmith_registry import PartSpec

if TYPE_CHECKING:
    from lensmith.interfaces.text import DeclaredTokenizer


class IncompatibleParts(ValueError):
    """Two parts that cannot work together; the message names both and the cure."""


class VisionEncoderSpec(PartSpec, abc.ABC):
    """Spec of a vision encoder."""

    def sources(self) -> dict[str, str]:
        """Files and folders (or hub ids) that the weights come from, by spec field: recorded in the manifest."""
        return {}

    def fresh(self) -> bool:
        """Whether the weights are random, so that every artifact must hold them."""
        return False

    def draws_views(self) -> bool:
        """Whether its transform draws (augmentation), so that a picture looks otherwise each time it is shown.

        The feature cache refuses such an encoder.
        """
        return False

    def relocated(self, folder: Path) -> VisionEncoderSpec:
        """The same encoder with its weights in a folder that `VisionEncoder.save` wrote."""
        raise NotImplementedError(f"{type(self).__name__} must implement relocated() to be trained")

    def shape(self) -> VisionShape | None:
        """Sizes from config files alone.

        Returns:
            None where there is no closed form; then `VisionEncoder.measure` builds it on the meta device.

        Raises:
            ValueError: the config cannot work, e.g. a layer that the encoder does not have.
            OSError: the config file cannot be read.
        """
        return None


class ImageSplitterSpec(PartSpec, abc.ABC):
    """Spec of an image splitter."""

    def draws_views(self) -> bool:
        """Whether it cuts a picture otherwise each time; see `VisionEncoderSpec.draws_views`."""
        return False

    def layout(self, image_size: Size, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """How a picture of `image_size` (height, width) is cut, and its exact number of positions.

        Raises:
            IncompatibleParts: the splitter stitches maps and the connector does not keep the grid.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement layout()")

    def largest(self, encoder: VisionShape, connector: ConnectorShape) -> TileLayout:
        """The layout of a picture that takes as many positions as any can; `lensmith check` holds rows against it.

        By default that of a picture of the encoder's own size, which is right for a splitter that makes as many
        positions of every picture; one whose number depends on the picture's size must say more.

        Raises:
            IncompatibleParts: as `layout`.
        """
        return self.layout(encoder.image_size, encoder, connector)

    def telling_sizes(self, encoder: VisionShape, connector: ConnectorShape) -> Sequence[Size]:
        """Image sizes (height, width) that tell this splitter's rules from others that agree nearly everywhere.

        An export asks them, so that a difference is found. By default none.
        """
        return ()

    def parameters(self, width: int) -> Parameters:
        """Learned tensors of the splitter (row-end vectors and the like) for language-model width D."""
        return ()


class ConnectorSpec(PartSpec, abc.ABC):
    """Spec of a connector."""

    def sources(self) -> dict[str, str]:
        """Files and folders (or hub ids) that a new model's weights come from, by spec field.

        An artifact holds the connector's weights, and with `Connector.save` and `relocated` what else it needs, so
        these may be gone when it is read.
        """
        return {}

    def relocated(self, folder: Path) -> ConnectorSpec:
        """The same connector with what it reads besides weights in a folder that `Connector.save` wrote."""
        raise NotImplementedError(f"{type(self).__name__} must implement relocated(), as its connector saves files")

    def shape(self, encoder: VisionShape, width: int) -> ConnectorShape | None:
        """Sizes between an encoder and a language model of width D.

        None, as by default, where there is no closed form; then `Connector.measure` builds it on the meta device for
        plans and training, and `lensmith check`, which imports no torch, leaves open whether the parts fit.

        Raises:
            IncompatibleParts: the widths or grids cannot fit.
        """
        return None


class LanguageModelSpec(PartSpec, abc.ABC):
    """Spec of a language model."""

    def shape(self) -> LanguageShape | None:
        """Sizes from config files alone; None where there is no closed form (see `VisionEncoderSpec.shape`)."""
        return None

    def default_conversation(self) -> str:
        """Name of the conversation that the model was tuned with, used when the spec names none."""
        raise NotImplementedError(f"{type(self).__name__} must implement default_conversation()")

    def declared_tokenizer(self) -> DeclaredTokenizer | None:
        """The tokenizer as its files describe it, without loading it; None, as by default, where that cannot be said.

        `lensmith check` holds conversations and embeddings against it. Imports neither torch nor transformers.

        Raises:
            OSError: there is no tokenizer where the spec says.
            ValueError: files that cannot be read.
        """
        return None

    def sources(self) -> dict[str, str]:
        """Files and folders (or hub ids) that the weights come from, by spec field: recorded in the manifest."""
        return {}

    def fresh(self) -> bool:
        """Whether the weights are random, so that every artifact must hold them."""
        return False

    def relocated(self, folder: Path) -> LanguageModelSpec:
        """The same model with its weights in a folder that `LanguageModel.save` wrote."""
        raise NotImplementedError(f"{type(self).__name__} must implement relocated() to be trained")

    def unmet(self) -> dict[str, str]:
        """What the model needs of this machine and does not find, by field, with the cure: packages of kernels, say."""
        return {}

    def with_tokenizer(self, folder: Path) -> LanguageModelSpec:
        """The same model with its tokenizer in a folder that `Tokenizer.save` wrote."""
        return self


class ConversationSpec(PartSpec, abc.ABC):
    """Spec of a conversation template."""


class TunerSpec(PartSpec, abc.ABC):
    """Spec of a tuner."""

    def trainable(self, parts: dict[str, Parameters]) -> Parameters:
        """The exact tensors that train, adapters included, with component-qualified names.

        Args:
            parts: every tensor of the model by part name (`vision_encoder`, `connector`, …), unqualified.

        Raises:
            ValueError: a target that is not in the model, with the names that are.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement trainable()")

    def check(self, parts: dict[str, Parameters]) -> None:
        """What `lensmith check` asks, without torch: by default `trainable`; less where that needs torch.

        Raises:
            ValueError: see `trainable`.
        """
        self.trainable(parts)

    def training(self, part: str) -> TunerSpec | None:
        """The same tuner so that it trains something of a part as well, e.g. of `vision_encoder`, for the conformance
        kit; None, as by default, where its spec cannot say so."""
        return None

    def lasting(self) -> dict[str, Any]:
        """The settings that decide which tensors the tuner adds and what they mean, by field.

        A stage goes on with the adapters of the artifact before it where these are equal; otherwise they are folded
        into the weights. By default all settings; less where some (a learning rate, dropout) only say how to train.
        """
        return self.model_dump(mode="json")

    def obstacles(self, *, activation_checkpointing: bool) -> list[str]:
        """What keeps this tuner from working with other settings of its stage, each with its cure; by default nothing.
        Imports no torch."""
        return []

    def unmet(self, *, zero: int) -> list[str]:
        """What keeps this tuner from running, whatever the model: a package that is not installed (with the command
        that installs it), a ZeRO stage that it cannot work under. By default nothing. Imports no torch.

        Args:
            zero: the stage's ZeRO stage.
        """
        return []

    def weight_bytes(self, parts: dict[str, Parameters], *, bytes_per_weight: float) -> float:
        """Bytes of the model's own weights while it trains, adapters left out; less where this tuner quantises some.

        Args:
            parts: every tensor of the model by part name, unqualified; the output head is not marked as linear.
            bytes_per_weight: of the stage's precision.
        """
        return bytes_per_weight * sum(parameter.numel for table in parts.values() for parameter in table)

    def published(self) -> dict[str, Any]:
        """What the stage's artifact holds besides the connector, by folder name, for `lensmith plan`."""
        return {}


def qualify(part: str, parameters: Parameters) -> Parameters:
    """The same tensors with the part's name in front."""
    from dataclasses import replace

    return tuple(replace(parameter, name=f"{part}.{parameter.name}") for parameter in parameters)
