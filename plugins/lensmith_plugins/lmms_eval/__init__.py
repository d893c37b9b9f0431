"""Lensmith models in lmms-eval: `lmms-eval eval --model lensmith --model_args artifact=FOLDER --tasks …`.

A plugin of theirs, found through their entry-point group `lmms_eval.models` (from lmms-eval 0.6 on). Nothing of
lmms-eval is imported before it asks.
"""

from __future__ import annotations

from typing import Any

__all__ = ["manifest"]


def manifest() -> Any:
    """Their record of the model `lensmith`: a class for prompts and one for messages."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="lensmith",
        simple_class_path=f"{__name__}.models.PromptModel",
        chat_class_path=f"{__name__}.models.MessagesModel",
    )
