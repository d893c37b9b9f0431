"""What a spec says of a prompt template. No torch here."""

from __future__ import annotations

from lensmith import ConversationSpec

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant."
    " The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class PlainSpec(ConversationSpec):
    """Picture and caption, without words around them."""


class VicunaSpec(ConversationSpec):
    """System text, then `USER:` and `ASSISTANT:` in one line."""

    system: str = _VICUNA_SYSTEM
    """What stands before the first message; empty for nothing."""


class ChatmlSpec(ConversationSpec):
    """One block a message, between `<|im_start|>` and `<|im_end|>`."""

    system: str = ""
    """The system message; empty for none."""
