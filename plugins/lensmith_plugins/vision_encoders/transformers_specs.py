"""Specs of the vision transformers that are run through transformers: CLIP, SigLIP, DINOv2. No torch here."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from lensmith import Checkpoint, Size, SpecPath, VisionEncoderSpec, VisionShape, is_hub_id, read_config
from lensmith.interfaces.bounds import Side
from lensmith_plugins.vision_encoders import clip_shape, dinov2_shape, siglip_shape
from lensmith_plugins.vision_encoders.vit_shape import blocks_before

if TYPE_CHECKING:
    from typing import Self


class TransformersSpec(VisionEncoderSpec, abc.ABC):
    """A vision transformer that transformers runs. Blocks past the selected layer are not built, loaded or run."""

    checkpoint: Checkpoint | None = None
    """Local folder or hub id of the vision model, or of a full model whose vision half is taken. Default none: random
    weights, with the sizes of `config`."""

    config: SpecPath | None = None
    """A config.json, or the folder that holds it, read in place of the checkpoint's own: the sizes of random
    weights, or of a checkpoint that is not on disk yet. Default none: the checkpoint's."""

    select_layer: int = -2
    """Which hidden state is the output, of layers + 1: 0 is the embedding (after its norm, where it has one), 1 the
    first block's output, -1 the last block's. Default -2, the last but one. The encoder's final norm is never
    applied."""

    @model_validator(mode="after")
    def _sizes_are_known(self) -> Self:
        if self.checkpoint is None and self.config is None:
            raise ValueError("give a checkpoint, or a config to build random weights from")
        return self

    @abc.abstractmethod
    def architecture(self) -> dict[str, Any]:
        """The sizes by their names in the config class of transformers, of all layers.

        Raises:
            OSError: the config file cannot be read.
            ValueError: it is of another family, or its sizes cannot work.
        """

    def _read(self, read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """The sizes that `config` says, held against those of a checkpoint that is on this machine.

        Raises:
            ValueError: they differ, besides what `read` raises.
        """
        if self.config is None:
            return read(str(self.checkpoint))
        if self.checkpoint is not None and not is_hub_id(self.checkpoint) and not Path(self.checkpoint).exists():
            raise FileNotFoundError(f"{self.checkpoint} does not exist; give a local folder or a hub id 'owner/name'")
        given = read(str(self.config))
        if self.checkpoint is not None and (Path(self.checkpoint) / "config.json").is_file():
            own = read(self.checkpoint)
            for key, value in given.items():
                if isinstance(value, int) and own[key] != value:
                    raise ValueError(
                        f"`config` says {key} {value} and the checkpoint {self.checkpoint} {own[key]}; leave `config`"
                        " out, the checkpoint has its own"
                    )
        return given

    @abc.abstractmethod
    def shape(self) -> VisionShape:
        """Sizes from config files alone (see `VisionEncoderSpec.shape`)."""

    def view_size(self) -> Size:
        """(height, width) in pixels of the pictures that the encoder takes."""
        size = self.architecture()["image_size"]
        return (size, size)

    def blocks(self) -> int:
        """How many transformer blocks are needed for the selected layer.

        Raises:
            ValueError: the encoder does not have that layer.
        """
        return blocks_before(self.select_layer, self.architecture()["num_hidden_layers"])

    def sources(self) -> dict[str, str]:
        """The checkpoint and the config, where given."""
        given = {"checkpoint": self.checkpoint, "config": self.config}
        return {name: str(source) for name, source in given.items() if source is not None}

    def fresh(self) -> bool:
        """Whether there is no checkpoint."""
        return self.checkpoint is None

    def relocated(self, folder: Path) -> Self:
        """The same encoder from a folder that its `save` wrote, which holds its config too."""
        return self.model_copy(update={"checkpoint": str(folder), "config": None})

    def preprocessor(self) -> dict[str, Any] | None:
        """The preprocessor_config.json of the checkpoint, else the one beside the config; None where there is none.

        Raises:
            OSError: the checkpoint is a hub id whose file cannot be had.
        """
        folders = [Path(self.checkpoint)] if self.checkpoint is not None else []
        if self.config is not None:
            folders.append(self.config if self.config.is_dir() else self.config.parent)
        for folder in folders:
            if (folder / "preprocessor_config.json").is_file():
                return read_config(str(folder), "preprocessor_config.json")
            if (folder / "processor_config.json").is_file():  # where transformers 5 saves a whole processor
                nested = read_config(str(folder), "processor_config.json").get("image_processor")
                if nested is not None:
                    return dict(nested)
        if self.checkpoint is not None and not Path(self.checkpoint).exists() and is_hub_id(self.checkpoint):
            return read_config(self.checkpoint, "preprocessor_config.json")
        return None


class ClipSpec(TransformersSpec):
    """A CLIP vision transformer. Blocks past the selected layer are neither built, loaded nor run."""

    cls_token: bool = False
    """Keep the class token, as the first token of a view. Default false: patches alone."""

    @classmethod
    def tiny(cls, folder: Path) -> ClipSpec:
        """See `PartSpec.tiny`."""
        from lensmith_plugins.vision_encoders.tiny import write_transformers

        return cls(checkpoint=str(write_transformers(folder, "CLIPVision", intermediate_size=48)))

    def architecture(self) -> dict[str, Any]:
        """The sizes by their names in `CLIPVisionConfig` (see `TransformersSpec.architecture`)."""
        return self._read(clip_shape.read_architecture)

    def shape(self) -> VisionShape:
        """Sizes from config.json alone (see `VisionEncoderSpec.shape`)."""
        return clip_shape.vision_shape(self.architecture(), self.blocks(), cls_token=self.cls_token)


class SiglipSpec(TransformersSpec):
    """A SigLIP vision transformer, or a SigLIP 2 of one resolution.

    There is no class token, and the attention pooling is not built. Blocks past the selected layer are neither built,
    loaded nor run.
    """

    @classmethod
    def tiny(cls, folder: Path) -> SiglipSpec:
        """See `PartSpec.tiny`."""
        from lensmith_plugins.vision_encoders.tiny import write_transformers

        return cls(checkpoint=str(write_transformers(folder, "SiglipVision", intermediate_size=48)))

    def architecture(self) -> dict[str, Any]:
        """The sizes by their names in `SiglipVisionConfig` (see `TransformersSpec.architecture`)."""
        return self._read(siglip_shape.read_architecture)

    def shape(self) -> VisionShape:
        """Sizes from config.json alone (see `VisionEncoderSpec.shape`)."""
        return siglip_shape.vision_shape(self.architecture(), self.blocks())


class Dinov2Spec(TransformersSpec):
    """A DINOv2 vision transformer, with or without registers; the registers are dropped after the last block that runs.

    The released weights were trained last at 518 pixels, 37 x 37 patches. At any other size the position embeddings
    are interpolated in each forward pass, bicubically as transformers does for that model (with antialiasing where
    there are registers); the stored ones stay as they are. Blocks past the selected layer are neither built, loaded nor
    run.
    """

    cls_token: bool = False
    """Keep the class token, as the first token of a view. Default false: patches alone."""

    image_size: Side | None = None
    """Side of a view in pixels: the shortest edge is resized to it and the centre square cropped, so that a square
    loses nothing. Default none: as preprocessor_config.json says (for the released weights the shortest edge to 256 and
    a crop of 224, which cuts a border of every picture); without that file, the config's image size."""

    @classmethod
    def tiny(cls, folder: Path) -> Dinov2Spec:
        """See `PartSpec.tiny`."""
        from lensmith_plugins.vision_encoders.tiny import write_transformers

        return cls(checkpoint=str(write_transformers(folder, "Dinov2WithRegisters")), image_size=42)

    def architecture(self) -> dict[str, Any]:
        """The `model_type`, and the sizes by their names in its config class (see `TransformersSpec.architecture`)."""
        return self._read(dinov2_shape.read_architecture)

    def view_size(self) -> Size:
        """(height, width) in pixels of the pictures that the encoder takes.

        Raises:
            OSError: preprocessor_config.json is needed and cannot be had.
            ValueError: it leaves the size to the picture.
        """
        if self.image_size is not None:
            return (self.image_size, self.image_size)
        try:
            settings = self.preprocessor()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; without that file, give image_size") from error
        return super().view_size() if settings is None else _made_size(settings)

    def shape(self) -> VisionShape:
        """Sizes from config.json and preprocessor_config.json alone (see `VisionEncoderSpec.shape`)."""
        architecture, view = self.architecture(), self.view_size()
        if min(view) < architecture["patch_size"]:
            raise ValueError(f"views of {view[0]} x {view[1]} pixels hold no patch of {architecture['patch_size']}")
        return dinov2_shape.vision_shape(architecture, self.blocks(), view, cls_token=self.cls_token)


def _made_size(settings: Mapping[str, Any]) -> Size:
    """(height, width) of the pictures that a preprocessor_config.json makes."""
    crops = settings.get("do_center_crop", True)
    size = settings.get("crop_size", 224) if crops else settings.get("size")
    if isinstance(size, int):
        return (size, size)
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return (int(size["height"]), int(size["width"]))
    raise ValueError(f"preprocessor_config.json makes pictures of no fixed size ({size}); give image_size")
