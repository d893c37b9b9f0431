"""The chat template that a tokenizer's files hold, found without loading it. No torch here."""

from __future__ import annotations

from pathlib import Path

from lensmith.checkpoints import hub_file, is_hub_id
from lensmith.io.json import parse_json
from lensmith_plugins.language_models.gguf_header import gguf_chat_template, is_gguf


def declared_template(source: str) -> str | None:
    """Jinja text of the template; None for a tokenizer without one, or one that cannot be had from here.

    Args:
        source: the tokenizer's folder, hub id or `.gguf` file.
    """
    if is_gguf(source):
        return gguf_chat_template(source) if Path(source).is_file() else None
    if text := _text(source, "chat_template.jinja"):
        return text
    config = parse_json(
        _text(source, "tokenizer_config.json") or "{}", f"{source}/tokenizer_config.json", nonfinite=True
    )
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template or None


def _text(source: str, name: str) -> str | None:
    file = Path(source) / name
    try:
        if not file.is_file() and not Path(source).exists() and is_hub_id(source):
            file = hub_file(source, name)
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
