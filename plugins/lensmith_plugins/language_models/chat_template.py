"""A tokenizer's own chat template, rendered in transformers' sandbox."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from lensmith import ChatText, ConversationError

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def render_chat(
    template: str, messages: Sequence[Mapping[str, str]], *, reply: bool, variables: Mapping[str, Any]
) -> ChatText:
    """Render messages; see `Tokenizer.chat`.

    Raises:
        ConversationError: the template is no Jinja, or refuses these messages, with its own words.
    """
    marked = bool(_MARKED.search(template))
    try:
        texts, answers = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=template,
            return_assistant_tokens_mask=marked,
            add_generation_prompt=reply,
            **variables,
        )
    except (TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ConversationError(
            f"the tokenizer's chat template cannot express the messages ({roles}): {error}; set `model.conversation`"
            " to another template, or its field `template` to a corrected one"
        ) from error
    return ChatText(texts[0], tuple((start, end) for start, end in answers[0]) if marked else None)
