"""Tiny real checkpoints of each family, written by transformers and open_clip themselves, and real pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
OPEN_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "layers": 3, "width": 32, "head_width": 8, "patch_size": 14},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
SIZES = ((1, 1), (3, 200), (33, 57), (225, 223), (640, 361))
"""(width, height) of the pictures."""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """Noise over gradients, as PNG and JPEG files of odd sizes, decoded."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(5)
    found = []
    for number, (width, height) in enumerate(SIZES):
        ramp = torch.linspace(0, 160, width).view(1, width, 1) + torch.linspace(0, 60, height).view(height, 1, 1)
        noise = torch.randint(0, 35, (height, width, 3), generator=generator)
        file = folder / f"{number}.{'jpg' if number % 2 else 'png'}"
        Image.fromarray((ramp + noise).to(torch.uint8).numpy()).save(file)
        found.append(Image.open(file).convert("RGB"))
    return found


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`checkpoints("siglip", …)`: a folder with a tiny model whose weights are all random, norms and scales too."""
    root = tmp_path_factory.mktemp("checkpoints")
    made: dict[str, Path] = {}

    def of(family: str, preprocessor: dict[str, Any] | None = None, **config: Any) -> Path:
        key = json.dumps([family, preprocessor, config], sort_keys=True)
        if key not in made:
            made[key] = root / str(len(made))
            torch.manual_seed(len(made))
            _write(family, made[key], config)
            if preprocessor is not None:
                (made[key] / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        return made[key]

    return of


def _write(family: str, folder: Path, config: dict[str, Any]) -> None:
    import transformers
    from safetensors.torch import save_file

    if family == "open_clip":
        import open_clip

        model = open_clip.CLIP(**{**OPEN_CLIP, "vision_cfg": {**OPEN_CLIP["vision_cfg"], **config}})
        _scatter(model)
        folder.mkdir()
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, folder / "open_clip_model.safetensors")
        described = {"model_cfg": {**OPEN_CLIP, "vision_cfg": {**OPEN_CLIP["vision_cfg"], **config}}}
        (folder / "open_clip_config.json").write_text(json.dumps(described))
        return
    names = {
        "clip": ("CLIPVisionConfig", "CLIPVisionModel", {"intermediate_size": 48}),
        "siglip": ("SiglipVisionConfig", "SiglipVisionModel", {"intermediate_size": 48}),
        "blip2": ("Blip2VisionConfig", "Blip2VisionModel", {"intermediate_size": 48}),
        "dinov2": ("Dinov2Config", "Dinov2Model", {}),
        "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {}),
    }
    config_name, model_name, more = names[family]
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**{**TINY, **more, **config}))
    _scatter(model)
    model.save_pretrained(folder)


@torch.no_grad()
def _scatter(model: torch.nn.Module) -> None:
    """Ones and zeros that would hide a forgotten scale or bias."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
