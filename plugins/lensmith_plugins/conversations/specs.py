"""What a spec says of a prompt template. No torch here."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from lensmith import ConversationSpec
from lensmith_plugins.conversations.texts import (
    HUMAN_SYSTEM,
    LLAMA_2_SYSTEM,
    LLAVA_LLAMA_2_SYSTEM,
    TAGS_SYSTEM,
    USER_SYSTEM,
)


class PlainSpec(ConversationSpec):
    """Picture and caption, without words around them."""


class ScriptSpec(ConversationSpec):
    """What the templates for dialogues share."""

    image_words: ClassVar[tuple[str, str] | None] = None
    """Words around each picture that belong to the template."""

    image_tags: tuple[str, str] | None = None
    """Special tokens before and after each picture, as `[<im_start>, <im_end>]` of LLaVA's `mm_use_im_start_end`; the
    tokenizer must have them. By default none."""


class VicunaSpec(ScriptSpec):
    """System text, then `USER:` and `ASSISTANT:` in one line."""

    system: str = USER_SYSTEM
    """What stands before the first message; empty for nothing. By default Vicuna's words, about a user."""


class LlavaV1Spec(VicunaSpec):
    """`vicuna_v1` with a system text about a human: what LLaVA's demo and command line ask with."""

    system: str = HUMAN_SYSTEM
    """What stands before the first message; empty for nothing. By default LLaVA's words, about a human."""


class V1MmtagSpec(VicunaSpec):
    """`vicuna_v1` with `<Image>` and `</Image>` written around each picture."""

    image_words = ("<Image>", "</Image>")

    system: str = TAGS_SYSTEM
    """What stands before the first message; empty for nothing. By default words that explain the tags."""


class HumanAssistantSpec(ScriptSpec):
    """System text, then `Human:` and `Assistant:` between `###`, as LLaVA and Vicuna had it first."""

    system: str = HUMAN_SYSTEM
    """What stands before the first message; empty for nothing. By default LLaVA's words, about a human."""

    form: Literal["original", "lines", "compact"] = "original"
    """`lines`: `### Human: …` on lines of their own. `compact`: `###Human: …###`. `original`, the default: rows that
    are learnt in lines and questions to a trained model compact, as the original code does."""

    labels: Literal["answers", "original"] = "answers"
    """What is learnt, in lines. `answers`, the default: each answer with the `###` that ends it. `original`: what the
    original code labels, whose spans take in role names and drift by one position a turn."""


class V0Spec(HumanAssistantSpec):
    """`llava_v0` with a question about energy sources and its answer before the conversation."""

    seed: bool = True
    """Whether that question and answer are written. The original leaves them out of rows that are learnt, and so does
    `form: original`. By default true."""


class V0MmtagSpec(HumanAssistantSpec):
    """`llava_v0` with `<Image>` and `</Image>` written around each picture."""

    image_words = ("<Image>", "</Image>")

    system: str = TAGS_SYSTEM
    """What stands before the first message; empty for nothing. By default words that explain the tags."""


class Llama2Spec(ScriptSpec):
    """`[INST] … [/INST]`, the system text inside the first question."""

    row_start: ClassVar[str | None] = "<s>"
    """Special token before every question but the first, which has the tokenizer's own BOS."""

    system: str = LLAMA_2_SYSTEM
    """What stands between `<<SYS>>` and `<</SYS>>`; empty for no such block. By default the words of LLaMA-2-chat."""


class LlavaLlama2Spec(Llama2Spec):
    """`llama_2` with the system text that LLaVA on LLaMA-2-chat was trained with."""

    system: str = LLAVA_LLAMA_2_SYSTEM
    """What stands between `<<SYS>>` and `<</SYS>>`; empty for no such block. By default LLaVA's words."""


class MistralInstructSpec(Llama2Spec):
    """`[INST] … [/INST]` without a system text; one `<s>` a row."""

    row_start = None

    system: str = ""
    """What stands between `<<SYS>>` and `<</SYS>>`; by default empty, for no such block."""


class ChatmlSpec(ScriptSpec):
    """One block a message, between `<|im_start|>` and `<|im_end|>`."""

    system: str = ""
    """The system message; empty for none."""


class TokenizerSpec(ScriptSpec):
    """The chat template that came with the language model's tokenizer, whatever it writes."""

    system: str = ""
    """The system message; empty for none, though some templates then write their own."""

    template: str | None = None
    """The text of a Jinja chat template, instead of the tokenizer's own. What it writes between `{% generation %}` and
    `{% endgeneration %}` is learnt. By default the tokenizer's own."""

    variables: dict[str, Any] = Field({})
    """Further values that the template reads, e.g. `{enable_thinking: false}` or a `date_string`. By default none."""
