"""CLIP's vision transformer through transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel
from transformers.utils import logging

from lensmith import Loading, Preprocessing, VisionShape
from lensmith.checkpoints import is_hub_id, read_config
from lensmith_plugins.vision_encoders.base import WrappedEncoder, some
from lensmith_plugins.vision_encoders.preprocessing import ResizeAndCrop
from lensmith_plugins.vision_encoders.specs import ClipSpec


class ClipEncoder(WrappedEncoder):
    """Hidden state `select_layer` of a CLIP vision model, without its final norm.

    The method is LLaVA's (Liu et al. 2023, arXiv 2304.08485): patch features of the last block but one.
    """

    network: CLIPVisionModel

    def __init__(self, spec: ClipSpec, network: CLIPVisionModel, shape: VisionShape) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.shape = shape

    @classmethod
    def build(cls, spec: ClipSpec, loading: Loading) -> ClipEncoder:
        """Build the blocks up to the selected layer and load their weights (see `VisionEncoder.build`)."""
        architecture = spec.architecture()
        config = CLIPVisionConfig(**{**architecture, "num_hidden_layers": spec.blocks()})
        if spec.checkpoint is None or not loading.weights:
            network = CLIPVisionModel(config).to(loading.dtype)
        else:
            network = _load(spec.checkpoint, config, loading)
        network.post_layernorm = nn.Identity()  # only the pooled output, which nobody reads, goes through it
        # A saved network keeps the full count, so that `select_layer` means the same layer when it is loaded again.
        network.config.num_hidden_layers = architecture["num_hidden_layers"]
        return cls(spec, network, spec.shape())

    @classmethod
    def preprocessing(cls, spec: ClipSpec) -> Preprocessing:
        """The checkpoint's preprocessor_config.json; where there is none, CLIP's own at the config's image size.

        Raises:
            OSError: the checkpoint is a hub id whose file cannot be had.
            ValueError: the file makes pictures of another size than the encoder takes.
        """
        return ResizeAndCrop(_processor(spec))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode views: pixels (V, 3, H, W) to (V, N, W), the class token first where it is kept."""
        hidden: Tensor = self.network(pixel_values=pixels).last_hidden_state  # (V, 1 + patches, W)
        return hidden if self.spec.cls_token else hidden[:, 1:]

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write config.json, model.safetensors and preprocessor_config.json (see `WrappedEncoder.save`)."""
        self.network.save_pretrained(folder, state_dict=self.network_state(state))
        _processor(self.spec).save_pretrained(folder)


def _load(checkpoint: str, config: CLIPVisionConfig, loading: Loading) -> CLIPVisionModel:
    if not is_hub_id(checkpoint) and not Path(checkpoint).is_dir():
        raise FileNotFoundError(f"{checkpoint} is not a folder with CLIP weights; give such a folder, or a hub id")
    try:
        with _quiet():
            network, report = CLIPVisionModel.from_pretrained(
                checkpoint,
                config=config,
                dtype=loading.dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below, by name
                **loading.options,
            )
    except SafetensorError as error:
        raise ValueError(f"{checkpoint}: its weights cannot be read: {error}") from error
    # The final norm is not used. Tensors past the selected layer and of the text half are left aside on purpose.
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("post_layernorm.")):
        raise ValueError(f"{checkpoint}: tensors of the CLIP vision model are missing: {some(missing)}")
    if misfits := sorted(f"{name} {tuple(f)} for {tuple(n)}" for name, f, n in report["mismatched_keys"]):
        raise ValueError(f"{checkpoint}: tensors do not fit the config: {some(misfits)}")
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of unexpected tensors, which are expected here."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _processor(spec: ClipSpec) -> CLIPImageProcessorPil:
    size = spec.architecture()["image_size"]
    settings = _processor_settings(spec)
    if settings is None:
        return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=size)
    processor = CLIPImageProcessorPil.from_dict(settings)
    out = processor.crop_size if processor.do_center_crop else processor.size
    if (out.height, out.width) != (size, size):
        raise ValueError(
            f"the preprocessor_config.json of {spec.checkpoint or spec.config} makes pictures of"
            f" {out.height} x {out.width} pixels, but the encoder's config.json says {size} x {size};"
            " use the two files of one model"
        )
    return processor


def _processor_settings(spec: ClipSpec) -> dict[str, Any] | None:
    folders = [Path(spec.checkpoint)] if spec.checkpoint is not None else []
    if spec.config is not None:
        folders.append(spec.config if spec.config.is_dir() else spec.config.parent)
    for folder in folders:
        if (folder / "preprocessor_config.json").is_file():
            return read_config(str(folder), "preprocessor_config.json")
        if (folder / "processor_config.json").is_file():  # where transformers 5 saves a whole processor
            nested = read_config(str(folder), "processor_config.json").get("image_processor")
            if nested is not None:
                return dict(nested)
    if spec.checkpoint is not None and not Path(spec.checkpoint).exists() and is_hub_id(spec.checkpoint):
        return read_config(spec.checkpoint, "preprocessor_config.json")
    return None
