"""Tiny checkpoints of each family, all weights random: three layers, 32 wide. For `tiny()` of the specs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lensmith.testing.tiny import scatter

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
_OPEN_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "layers": 3, "width": 32, "head_width": 8, "patch_size": 14},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def write_transformers(folder: Path, family: str, **sizes: Any) -> Path:
    """Write the vision model of a family as `save_pretrained` does.

    Args:
        folder: where to.
        family: the beginning of its classes' names in transformers, e.g. `CLIPVision`.
        sizes: more fields of its config.
    """
    import transformers

    config = getattr(transformers, f"{family}Config")(**{**_SIZES, **sizes})
    scatter(getattr(transformers, f"{family}Model")(config)).save_pretrained(folder)  # type: ignore[operator]
    return folder


def write_open_clip(folder: Path) -> Path:
    """Write a whole model as open_clip's repositories hold it."""
    import open_clip
    from safetensors.torch import save_file

    model = scatter(open_clip.CLIP(**_OPEN_CLIP))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": _OPEN_CLIP}))
    return folder
