"""What a spec file may say of the conversation. Every command imports this: no torch here."""

from __future__ import annotations

from lensmith import ConversationSpec


class ExamplePartSpec(ConversationSpec):
    """One line a message, the speaker's name in front; an end token after each answer."""

    system: str = ""
    """What stands before the first message. Default empty, for nothing."""

    user: str = "Question"
    """The user's name. Default Question."""

    assistant: str = "Answer"
    """The assistant's name. Default Answer."""
