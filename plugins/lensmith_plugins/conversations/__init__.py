"""Plugin: prompt templates."""

from __future__ import annotations

from collections.abc import Iterable

from lensmith import Component, Kind, hookimpl
from lensmith_plugins.conversations.specs import ChatmlSpec, PlainSpec, VicunaSpec

__all__ = ["ChatmlSpec", "PlainSpec", "VicunaSpec", "api_version", "lensmith_components"]

api_version = 1


@hookimpl
def lensmith_components() -> Iterable[Component]:
    """The prompt templates of this package."""
    return [
        Component(
            kind=Kind.CONVERSATION,
            name="plain",
            spec=PlainSpec,
            implementation="lensmith_plugins.conversations.plain:PlainConversation",
            summary="picture, then caption: the first stage of LLaVA",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="vicuna_v1",
            spec=VicunaSpec,
            implementation="lensmith_plugins.conversations.vicuna:VicunaConversation",
            summary="USER: … ASSISTANT: …</s>, as Vicuna 1.1 and later and LLaVA-1.5",
        ),
        Component(
            kind=Kind.CONVERSATION,
            name="chatml",
            spec=ChatmlSpec,
            implementation="lensmith_plugins.conversations.chatml:ChatmlConversation",
            summary="<|im_start|>role … <|im_end|>, as Qwen and SmolLM2",
        ),
    ]
