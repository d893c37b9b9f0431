"""Image towers of open_clip."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPVisionCfg
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lensmith import Loading, Preprocessing, VisionShape
from lensmith_plugins.vision_encoders.base import WrappedEncoder, some
from lensmith_plugins.vision_encoders.open_clip_shape import pair
from lensmith_plugins.vision_encoders.open_clip_spec import CONFIG, WEIGHTS, OpenClipSpec, conversion
from lensmith_plugins.vision_encoders.preprocessing import background

_PREFIX = "visual."
"""Of the image tower's tensors in a file of open_clip's."""


class OpenClipEncoder(WrappedEncoder):
    """Hidden state `select_layer` of an open_clip vision transformer, without its final norm."""

    network: VisionTransformer

    def __init__(self, spec: OpenClipSpec, network: VisionTransformer, shape: VisionShape) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.shape = shape

    @classmethod
    def build(cls, spec: OpenClipSpec, loading: Loading) -> OpenClipEncoder:
        """Build the blocks up to the selected layer and load their weights (see `VisionEncoder.build`)."""
        if loading.options:
            raise ValueError(
                f"open_clip models cannot be loaded with {some(loading.options)}; tune this encoder without"
            )
        shape = spec.shape()
        file = _weights(spec) if loading.weights else None
        # Where weights are loaded, none are drawn at random first.
        with torch.device("meta") if file else nullcontext():
            network = _tower(spec)
        if file:
            _load(network, file)
        return cls(spec, network.to(loading.dtype), shape)

    @classmethod
    def preprocessing(cls, spec: OpenClipSpec) -> Preprocessing:
        """open_clip's own transform for evaluation, with the numbers of the tag or of the checkpoint's config.

        Raises:
            ValueError: open_clip has no such tag for the model.
        """
        return OpenClipPreprocessing(_pictures(spec))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode views: pixels (V, 3, H, W) to (V, N, W), the class token first where it is kept."""
        hidden: Tensor = self.network(pixels.to(self.network.conv1.weight.dtype))  # (V, 1 + patches, W)
        return hidden if self.spec.cls_token else hidden[:, 1:]

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write the config and model.safetensors in open_clip's form (see `WrappedEncoder.save`)."""
        tensors = {f"{_PREFIX}{n}": t.detach().cpu().contiguous() for n, t in self.network_state(state).items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        config = {"model_cfg": self.spec.tower_config(), "preprocess_cfg": asdict(_pictures(self.spec))}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class OpenClipPreprocessing(Preprocessing):
    """open_clip's transform for evaluation.

    Args:
        config: size, colours, filter and manner of the resize.
    """

    def __init__(self, config: PreprocessCfg) -> None:
        self.transform = image_transform_v2(config, is_train=False)
        self.background = background(config.mean)

    def __call__(self, image: Image.Image) -> Tensor:
        """One RGB picture of any size to float32 (3, H, W)."""
        pixels: Tensor = self.transform(image)
        return pixels


def _tower(spec: OpenClipSpec) -> VisionTransformer:
    """The transformer up to the selected layer; what is left out of it comes after the last block."""
    config = spec.tower_config()
    vision = CLIPVisionCfg(**config["vision_cfg"])
    activation: Any = QuickGELU if config.get("quick_gelu") else nn.GELU
    network = VisionTransformer(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        width=vision.width,
        layers=spec.blocks(),
        heads=vision.width // vision.head_width,
        mlp_ratio=vision.mlp_ratio,
        ls_init_value=vision.ls_init_value,
        pos_embed_type=vision.pos_embed_type,
        no_ln_pre=vision.no_ln_pre,
        pool_type="none",  # all tokens come out
        act_layer=partial(activation, **(vision.act_kwargs or {})),
        norm_layer=partial(LayerNorm, **(vision.norm_kwargs or {})),
    )
    network.ln_post = nn.Identity()
    network.proj = None
    return network


def _tag(spec: OpenClipSpec) -> dict[str, Any]:
    """open_clip's record of the pretrained tag; empty without one."""
    if spec.pretrained is None or spec.model is None:
        return {}
    found = open_clip.get_pretrained_cfg(spec.model, spec.pretrained)
    if not found:
        tags = open_clip.list_pretrained_tags_by_model(spec.model)
        raise ValueError(
            f"open_clip has no weights {spec.pretrained!r} of {spec.model}; it has {', '.join(tags) or 'none'}"
        )
    if bool(found.get("quick_gelu")) != bool(spec.tower_config().get("quick_gelu")):
        other = spec.model.removesuffix("-quickgelu")
        other = other if other != spec.model else f"{spec.model}-quickgelu"
        raise ValueError(
            f"the weights {spec.pretrained!r} were trained with another activation than {spec.model} has;"
            f" name the model {other}"
        )
    return dict(found)


def _pictures(spec: OpenClipSpec) -> PreprocessCfg:
    config = asdict(PreprocessCfg())
    for more in (_tag(spec), spec.picture_config()):
        config = merge_preprocess_dict(config, more)
    return PreprocessCfg(**{**config, "size": pair(spec.vision()["image_size"])})


def _weights(spec: OpenClipSpec) -> Path | None:
    tag = _tag(spec)
    if spec.checkpoint is not None:
        file = spec.checkpoint / WEIGHTS if spec.checkpoint.is_dir() else spec.checkpoint
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist; give a .safetensors file with open_clip's tensor names")
        return file
    if not tag:
        return None
    try:
        file = Path(open_clip.download_pretrained(tag))
    except Exception as error:  # of whatever client open_clip downloads with
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(
            f"the weights {spec.pretrained!r} of open_clip's {spec.model} are neither cached nor can they be"
            f" downloaded ({reason}); give a local checkpoint"
        ) from error
    if file.suffix != ".safetensors":
        raise ValueError(
            f"{file} of {spec.model} {spec.pretrained!r} is a pickle, which may run code when it is loaded; if you"
            f" trust it, convert it once and give the new file as checkpoint: {conversion(str(file))}"
        )
    return file


def _load(network: VisionTransformer, file: Path) -> None:
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no readable .safetensors file: {error}") from error
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    wanted = network.state_dict()
    # Tensors of the text tower, past the selected layer and of the pooling are left aside on purpose.
    if missing := [f"{_PREFIX}{name}" for name in wanted if f"{_PREFIX}{name}" not in weights]:
        raise ValueError(f"{file}: tensors of the open_clip image tower are missing: {some(missing)}")
    sizes = {name: (tuple(weights[f"{_PREFIX}{name}"].shape), tuple(tensor.shape)) for name, tensor in wanted.items()}
    if misfits := [f"{_PREFIX}{name} {found} for {fits}" for name, (found, fits) in sizes.items() if found != fits]:
        raise ValueError(f"{file}: tensors do not fit the model: {some(misfits)}")
    network.load_state_dict({name: weights[f"{_PREFIX}{name}"] for name in wanted}, assign=True)
