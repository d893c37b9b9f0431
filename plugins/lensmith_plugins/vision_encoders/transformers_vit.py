"""Vision transformers through transformers: what CLIP, SigLIP and DINOv2 share."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lensmith import Loading, Preprocessing, VisionShape
from lensmith.checkpoints import check_indexes, is_hub_id
from lensmith.parts import in_one_line
from lensmith_plugins.compat.quiet import quiet
from lensmith_plugins.own_code import code_not_run
from lensmith_plugins.vision_encoders.base import WrappedEncoder, some
from lensmith_plugins.vision_encoders.preprocessing import PilPreprocessing
from lensmith_plugins.vision_encoders.transformers_specs import TransformersSpec


class TransformersEncoder(WrappedEncoder):
    """Hidden state `select_layer` of a vision transformer, without its final norm.

    The method is LLaVA's (Liu et al. 2023, arXiv 2304.08485): patch features of the last block but one.
    """

    network: PreTrainedModel
    title: str
    """Name of the family in messages."""
    final_norm: str
    """The module after the last block, which only pooled outputs need; it is not built."""
    prefix: int = 0
    """Tokens before the patches, the first of them the class token where there is any."""

    def __init__(self, spec: TransformersSpec, network: PreTrainedModel, shape: VisionShape) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.shape = shape

    @classmethod
    @abc.abstractmethod
    def classes(cls, architecture: dict[str, Any]) -> tuple[Any, Any]:
        """Config and model class of transformers for the sizes of a spec."""

    @classmethod
    @abc.abstractmethod
    def processor(cls, spec: Any) -> Any:
        """The PIL image processor of the checkpoint, or the family's own where the checkpoint says nothing."""

    @classmethod
    def unused(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        """Entries of the config that leave out what no hidden state needs."""
        return {}

    @classmethod
    def build(cls, spec: Any, loading: Loading) -> TransformersEncoder:
        """Build the blocks up to the selected layer and load their weights (see `VisionEncoder.build`)."""
        architecture = spec.architecture()
        config_class, model_class = cls.classes(architecture)
        blocks = {"num_hidden_layers": spec.blocks()}
        config = config_class(**{**architecture, **cls.unused(architecture), **blocks})
        if spec.checkpoint is None or not loading.weights:
            network = model_class(config).to(loading.dtype)
        else:
            network = cls._load(model_class, spec.checkpoint, config, loading)
        setattr(network, cls.final_norm, nn.Identity())
        cls.trim(network)
        # A saved network keeps the full count, so that `select_layer` means the same layer when it is loaded again.
        network.config.num_hidden_layers = architecture["num_hidden_layers"]
        return cls(spec, network, spec.shape())

    @classmethod
    def trim(cls, network: PreTrainedModel) -> None:
        """Take out what the config cannot leave out."""

    @classmethod
    def preprocessing(cls, spec: Any) -> Preprocessing:
        """The checkpoint's preprocessor_config.json; where there is none, the family's own at the encoder's size.

        Raises:
            OSError: the checkpoint is a hub id whose file cannot be had.
            ValueError: the file makes pictures of another size than the encoder takes.
        """
        return PilPreprocessing(cls._fitting_processor(spec))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode views: pixels (V, 3, H, W) to (V, N, W), the class token first where it is kept."""
        hidden: Tensor = self.network(pixel_values=pixels).last_hidden_state  # (V, prefix + patches, W)
        patches = hidden[:, self.prefix :]
        return torch.cat([hidden[:, :1], patches], dim=1) if self.shape.extra_tokens else patches

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write config.json, model.safetensors and preprocessor_config.json (see `WrappedEncoder.save`)."""
        self.network.save_pretrained(folder, state_dict=self.network_state(state))
        self._fitting_processor(self.spec).save_pretrained(folder)

    @classmethod
    def _fitting_processor(cls, spec: Any) -> Any:
        processor = cls.processor(spec)
        made = processor.crop_size if processor.do_center_crop else processor.size
        wanted = spec.view_size()
        if (made.height, made.width) != wanted:
            raise ValueError(
                f"the preprocessor_config.json of {spec.checkpoint or spec.config} makes pictures of"
                f" {made.height} x {made.width} pixels, but the encoder's config.json says {wanted[0]} x {wanted[1]};"
                " use the two files of one model"
            )
        return processor

    @classmethod
    def _load(cls, model_class: Any, checkpoint: str, config: Any, loading: Loading) -> Any:
        if not is_hub_id(checkpoint) and not Path(checkpoint).is_dir():
            raise FileNotFoundError(
                f"{checkpoint} is not a folder with {cls.title} weights; give such a folder, or a hub id"
            )
        check_indexes(Path(checkpoint))
        try:
            with quiet(progress=is_hub_id(checkpoint)), code_not_run(checkpoint):
                network, report = model_class.from_pretrained(
                    checkpoint,
                    config=config,
                    dtype=loading.dtype,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they are told below, by name
                    trust_remote_code=False,
                    **loading.options,
                )
        except (OSError, ValueError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of a file that is empty, cut off or not what its name says: any
            if "alloc" in str(error):
                raise
            raise ValueError(f"{checkpoint}: its weights cannot be read: {in_one_line(error)}") from error
        # Tensors past the selected layer and of a text half are left aside on purpose.
        needless = (f"{cls.final_norm}.", "embeddings.mask_token")
        if missing := sorted(name for name in report["missing_keys"] if not name.startswith(needless)):
            raise ValueError(f"{checkpoint}: tensors of the {cls.title} vision model are missing: {some(missing)}")
        if misfits := sorted(f"{name} {tuple(f)} for {tuple(n)}" for name, f, n in report["mismatched_keys"]):
            raise ValueError(f"{checkpoint}: tensors do not fit the config: {some(misfits)}")
        return network
