"""What may be said of a checkpoint that its files leave open. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lensmith import Checkpoint, ImporterSpec


class OpenSpec(ImporterSpec):
    """What every LLaVA-like checkpoint leaves open."""

    tokenizer: Checkpoint | None = None
    """Folder or hub id of the tokenizer. Default none: the checkpoint's own files, else those of its base."""

    conversation: str | None = None
    """Name of the prompt template; no format says it. Default none: the language model's, `vicuna_v1` for LLaMA
    without a chat template."""


class LlavaImportSpec(OpenSpec):
    """An original LLaVA checkpoint: the whole model, a stage-1 projector, or a LoRA folder."""

    base: Checkpoint | None = None
    """Folder or hub id of the language model that a projector or LoRA folder goes onto (`--base`). Default none: the
    one that `adapter_config.json` names, where it is on this machine."""

    vision_encoder: Checkpoint | None = None
    """Folder or hub id of the CLIP model: its config, and its weights where the checkpoint has none. Default none: what
    the checkpoint's config calls `mm_vision_tower`."""

    select_layer: int | None = None
    """Hidden state of the vision encoder. Default none: the config's `mm_vision_select_layer`; without a config it must
    be said."""

    @classmethod
    def migrated(cls, arguments: Mapping[str, Any], gpus: int) -> Mapping[str, Any] | None:
        """See `ImporterSpec.migrated`."""
        from lensmith_plugins.formats.llava_script import spec_of

        return spec_of(arguments, gpus)


class HfImportSpec(OpenSpec):
    """A LlavaForConditionalGeneration or LlavaNextForConditionalGeneration of transformers, by its names of 4.x or
    5.x."""


class BlipImportSpec(OpenSpec):
    """A BLIP-2 or InstructBLIP model of transformers whose language model only decodes (OPT, Vicuna)."""
