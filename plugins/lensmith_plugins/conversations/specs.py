"""What a spec says of a prompt template. No torch here."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from lensmith import ConversationSpec
from lensmith_plugins.conversations.texts import (
    HUMAN_SYSTEM,
    LLAMA_2_SYSTEM,
    LLAVA_LLAMA_2_SYSTEM,
    TAGS_SYSTEM,
    USER_SYSTEM,
)

FIXED_DAY = "2024-07-26"


def _day(value: Any) -> str:
    """A day as text; YAML reads 2025-12-31 as a date."""
    text = value.isoformat() if isinstance(value, datetime.date) else value
    try:
        if not isinstance(text, str) or datetime.date.fromisoformat(text).isoformat() != text:
            raise ValueError(text)
    except ValueError:
        raise ValueError(f"{value!r} is no day; write one like 2025-12-31") from None
    return text


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

    reasoning: bool = False
    """Whether the model is asked to reason before it answers, where its template has a switch for that
    (`enable_thinking` of Qwen 3, `thinking` of Granite). Rows whose answers begin with `<think> … </think>` are asked
    for with it whatever this says. By default false: an answer is the words of the row, and an empty block that the
    template writes before it belongs to the question."""

    stop: list[str] = Field([])
    """Texts that end an answer, for a template that writes no special token behind one, e.g. `["\\n"]`; each answer
    must end in one of them. By default none."""

    date: Annotated[str, BeforeValidator(_day)] = FIXED_DAY
    """The day that a template which writes today's date takes for today, as 2025-12-31, so that ids do not change
    from day to day. By default 2024-07-26, which Llama 3.1's template has where it knows no day."""

    variables: dict[str, Any] = Field({})
    """Further values that the template reads, e.g. `{enable_thinking: false}` or a `date_string`; a name that it does
    not read is refused. By default none."""
