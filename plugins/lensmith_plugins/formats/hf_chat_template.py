"""The chat template of an `hf` export: written for transformers and vLLM, compared with the server's ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

from lensmith import Conversation
from lensmith_plugins.compat.quiet import quiet
from lensmith_plugins.formats.chat_template import Words, template
from lensmith_plugins.formats.hf_tokenizer_files import TokenizerFiles
from lensmith_plugins.formats.template_check import FORMS, differences, require_same
from lensmith_plugins.language_models.hf_tokenizer import HfTokenizer

FILE = "chat_template.jinja"


def write_template(
    folder: Path,
    words: Words,
    conversation: Conversation,
    own: HfTokenizer,
    image_token: str,
    files: TokenizerFiles,
) -> None:
    """Write the template beside a tokenizer and a processor.

    It writes BOS itself, since transformers' and vLLM's chats add none; behind it a space or nothing, whichever makes
    the ids of the server.

    Args:
        folder: holds the tokenizer's and the processor's files.
        words: what the conversation writes.
        conversation: bound to the tokenizer.
        own: the artifact's tokenizer.
        image_token: stands for a picture.
        files: the ids that were written.

    Raises:
        LensmithError: with no beginning does it make the server's ids, through the tokenizer or the processor.
    """
    specials = [] if own.parse_special_text else list(own.specials)
    refused = sorted({*specials, image_token, str(files.config["pad_token"])})
    found: list[str] = []
    for bos in words.bos:
        (folder / FILE).write_text(template(words, image_token, refused, bos), encoding="utf-8")
        with quiet():
            plain: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

        def by_tokenizer(messages: list[dict[str, Any]], plain: Any = plain) -> list[int]:
            made = plain.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
            return list(made["input_ids"])

        differing = list(differences(by_tokenizer, conversation, own, files.image_id))
        found = differing if not found or len(differing) < len(found) else found
        if not differing:
            break
    else:
        require_same(found, "through the tokenizer alone")
    with quiet():
        processor: Any = AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)

    def by_processor(messages: list[dict[str, Any]]) -> list[int]:
        made = processor.apply_chat_template(
            _shown(messages), add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ids: list[int] = made["input_ids"][0] if isinstance(made["input_ids"][0], list) else made["input_ids"]
        return [int(index) for index in ids]

    try:  # all images are of one size, and take as many positions wherever they stand
        positions = max(by_processor(FORMS["a picture and a text"]).count(files.image_id), 1)
    except Exception:  # a template's own exception, wrapped by the processor; told below
        positions = 1
    differing = list(differences(by_processor, conversation, own, files.image_id, positions=positions))
    require_same(differing, "through the processor")


def _shown(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with a picture where they show one, and contents as parts, which processors want."""
    made = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        shown = [{**part, "image": Image.new("RGB", (28, 28))} if part["type"] == "image" else part for part in parts]
        made.append({**message, "content": shown})
    return made
