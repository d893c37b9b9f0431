"""Feature maps of timm models."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil

from lensmith import Loading, Preprocessing, VisionShape, parameter_shapes
from lensmith.io import hub
from lensmith_plugins.compat.torch import counted
from lensmith_plugins.vision_encoders.base import WrappedEncoder, some
from lensmith_plugins.vision_encoders.preprocessing import PilPreprocessing
from lensmith_plugins.vision_encoders.timm_spec import TimmSpec

_WEIGHTS = "model.safetensors"


class TimmEncoder(WrappedEncoder):
    """One or more feature levels of a timm model, pooled to one grid and joined on the width."""

    def __init__(self, spec: TimmSpec, network: nn.Module, levels: list[int]) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.levels = levels

    @classmethod
    def build(cls, spec: TimmSpec, loading: Loading) -> TimmEncoder:
        """Build the model up to the last level and load its weights (see `VisionEncoder.build`).

        One picture is run through it, because no formula gives the grids of every timm model.
        """
        if loading.options:
            raise ValueError(f"timm models cannot be loaded with {some(loading.options)}; tune this encoder without")
        settings = _settings(spec)
        options: dict[str, Any] = {"num_classes": 0}
        if spec.image_size is not None and settings.fixed_input_size:
            options["img_size"] = spec.image_size
        if spec.pretrained and loading.weights and (repository := getattr(settings, "hf_hub_id", None)):
            hub.require(str(repository))
        network = timm.create_model(spec.model, pretrained=spec.pretrained and loading.weights, **options)
        levels = _levels(spec, network)
        network.prune_intermediate_layers(levels, prune_norm=True, prune_head=True)
        if spec.checkpoint is not None and loading.weights:
            _load(network, spec.checkpoint)
        encoder = cls(spec, network.to(loading.dtype), levels)
        encoder.shape = encoder._measured(spec.image_size or _native_size(spec, settings))
        return encoder

    @classmethod
    def measure(cls, spec: TimmSpec) -> VisionShape:
        """Sizes from the meta device; from random weights for the few models that cannot be built there."""
        try:
            return super().measure(spec)
        except Exception:  # whatever such a model stumbles on; a mistake in the spec is raised again below
            return cls.build(spec, Loading(weights=False)).shape

    @classmethod
    def preprocessing(cls, spec: TimmSpec) -> Preprocessing:
        """Resize and centre crop with the spec's numbers, or timm's for the model, on PIL."""
        settings = _settings(spec)
        size = spec.image_size or _native_size(spec, settings)
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": int(size / spec.crop_pct)},
            crop_size=size,
            resample=Image.Resampling[spec.interpolation.upper()],
            image_mean=list(spec.mean or settings.mean),
            image_std=list(spec.std or settings.std),
        )
        return PilPreprocessing(processor)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode views: pixels (V, 3, H, W) to (V, N, W), tokens in row-major order."""
        return torch.cat([self._tokens(level) for level in self._maps(pixels)], dim=-1)

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write model.safetensors with timm's names (see `WrappedEncoder.save`)."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.network_state(state).items()}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / _WEIGHTS)

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """The chosen levels, each (V, channels, rows, columns)."""
        dtype = next(self.network.parameters()).dtype
        maps: list[Tensor] = self.network.forward_intermediates(  # type: ignore[operator]
            pixels.to(dtype), indices=self.levels, norm=False, output_fmt="NCHW", intermediates_only=True
        )
        return maps

    def _tokens(self, level: Tensor) -> Tensor:
        """One level (V, channels, rows, columns) to (V, N, channels)."""
        if level.shape[-2:] != self.shape.grid:
            level = F.adaptive_avg_pool2d(level, self.shape.grid)
        tokens = level.flatten(2).transpose(1, 2)
        return F.layer_norm(tokens, tokens.shape[-1:]) if self.spec.normalize else tokens

    def _measured(self, size: int) -> VisionShape:
        pixels = torch.zeros(1, 3, size, size, device=next(self.network.parameters()).device)
        self.eval()  # one picture must not move the statistics of a batch norm
        try:
            flops, maps = counted(lambda: self._maps(pixels))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"timm model {self.spec.model!r} cannot encode {size} x {size} pixels: {error}") from error
        self.train()
        finest = max(level.shape[-1] for level in maps)
        if self.spec.grid is not None and self.spec.grid > finest:
            raise ValueError(
                f"grid {self.spec.grid} is finer than the finest chosen level of {self.spec.model!r} at {size}"
                f" pixels, {finest} x {finest}; choose a smaller grid, an earlier level or a larger image_size"
            )
        rows, columns = maps[-1].shape[-2:]
        return VisionShape(
            image_size=(size, size),
            grid=(rows, columns) if self.spec.grid is None else (self.spec.grid, self.spec.grid),
            width=sum(level.shape[1] for level in maps),
            parameters=parameter_shapes(self),
            flops_per_view=flops,
        )


def _settings(spec: TimmSpec) -> Any:
    """Timm's record of the model: input size, colours, whether its input size is fixed when it is built."""
    if not timm.is_model(spec.model):
        close = difflib.get_close_matches(spec.model, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"timm {timm.__version__} has no model {spec.model!r}{hint}")
    try:
        return timm.get_pretrained_cfg(spec.model)
    except RuntimeError as error:  # a tag, as in `name.tag`, that timm does not know
        raise ValueError(f"timm model {spec.model!r}: {error}") from error


def _native_size(spec: TimmSpec, settings: Any) -> int:
    _, rows, columns = settings.input_size
    if rows != columns:
        raise ValueError(f"timm model {spec.model!r} takes {rows} x {columns} pixels; give an image_size for squares")
    return int(rows)


def _levels(spec: TimmSpec, network: nn.Module) -> list[int]:
    """The chosen levels counted from 0."""
    if not hasattr(network, "forward_intermediates") or not hasattr(network, "prune_intermediate_layers"):
        raise ValueError(f"timm model {spec.model!r} gives no feature maps; choose another model")
    count = len(network.feature_info)  # type: ignore[arg-type]
    chosen = [-1] if spec.levels is None else spec.levels
    if outside := [level for level in chosen if not -count <= level < count]:
        raise ValueError(
            f"timm model {spec.model!r} has levels 0 to {count - 1} (or {-count} to -1 from the end); it has no"
            f" level {' or '.join(str(level) for level in outside)}"
        )
    levels = [level % count for level in chosen]
    if levels != sorted(set(levels)):
        raise ValueError(f"levels {chosen} of {spec.model!r} must each be given once, from fine to coarse")
    return levels


def _load(network: nn.Module, checkpoint: Path) -> None:
    file = checkpoint / _WEIGHTS if checkpoint.is_dir() else checkpoint
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; give a .safetensors file with timm's tensor names")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no readable .safetensors file: {error}") from error
    wanted = network.state_dict()
    # Tensors of the head and past the last level are left aside on purpose. The counters of batch norms are not
    # used with a fixed momentum, and converted checkpoints often lack them.
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    if missing := [name for name in needed if name not in weights]:
        raise ValueError(f"{file}: tensors of the timm model are missing: {some(missing)}")
    sizes = {name: (tuple(weights[name].shape), tuple(wanted[name].shape)) for name in needed}
    if misfits := [f"{name} {found} for {fits}" for name, (found, fits) in sizes.items() if found != fits]:
        raise ValueError(f"{file}: tensors do not fit the model at this image_size: {some(misfits)}")
    network.load_state_dict({name: weights[name] for name in wanted if name in weights}, strict=False)
