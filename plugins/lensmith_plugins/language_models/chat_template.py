"""A chat template's text to what it writes: by a process of its own, which no template can hold up."""

from __future__ import annotations

import datetime
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lensmith import ChatText, ConversationError
from lensmith_plugins.language_models import template_worker
from lensmith_plugins.language_models.template_worker import SECONDS, receive, send

FIXED_DAY = datetime.date(2024, 7, 26)
"""What a template takes for today where nothing says otherwise: the day that Llama 3.1's template falls back to."""
_PATIENCE = 2
"""So often a template may take too much; then it is not tried again, lest each row of a file take as long."""


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    reply: bool,
    variables: Mapping[str, Any],
    date: datetime.date | None = None,
) -> ChatText:
    """Render messages; see `Tokenizer.chat`.

    Raises:
        ConversationError: the template is no Jinja, refuses these messages (with its own words), or takes more time,
            memory or text than any chat needs; in one line.
    """
    answer = _RENDERERS.mine().render(
        {
            "template": template,
            "messages": [dict(message) for message in messages],
            "reply": reply,
            "variables": {name: _plain(value) for name, value in variables.items()},
            "date": (date or FIXED_DAY).isoformat(),
        }
    )
    if "error" in answer:
        roles = ", ".join(str(message["role"]) for message in messages)
        raise ConversationError(
            f"the tokenizer's chat template cannot express the messages ({roles}): {_short(answer['error'])}; set"
            " `model.conversation` to another template, or its field `template` to a corrected one"
        )
    spans = answer["answers"]
    marked = None if spans is None else tuple((start, end) for start, end in spans)
    return ChatText(answer["text"], marked, frozenset(answer["reads"]))


class _Renderer:
    """One process that renders, started when it is first asked and again where a template has ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._known: set[str] = set()
        self._excesses: dict[str, list[dict[str, Any]]] = {}

    def render(self, request: dict[str, Any]) -> dict[str, Any]:
        key = hashlib.sha256(request["template"].encode("utf-8", "surrogatepass")).hexdigest()
        with self._lock:
            past = self._excesses.setdefault(key, [])
            if len(past) >= _PATIENCE:
                return past[-1]
            process = self._started()
            whole = {**request, "key": key}
            if key in self._known:
                del whole["template"]
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                send(process.stdin, whole)
                answer: dict[str, Any] | None = receive(process.stdout)
            except (BrokenPipeError, ValueError):
                answer = None
            if answer is None:
                self._stop()
                told = f"it takes more than {SECONDS:g} s of processor time, or its process was ended"
                answer = {"error": told, "excess": True}
            else:
                self._known.add(key)
            if answer.get("excess"):
                past.append(answer)
            return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            # -P: the folder of the script holds modules by common names, which must not stand before others.
            self._process = subprocess.Popen(
                [sys.executable, "-P", template_worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._known = set()
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class _Renderers:
    """Each process its own: a forked one may not read its parent's answers."""

    def __init__(self) -> None:
        self._by_process: dict[int, _Renderer] = {}

    def mine(self) -> _Renderer:
        return self._by_process.setdefault(os.getpid(), _Renderer())


_RENDERERS = _Renderers()


def _plain(value: Any) -> Any:
    """A value of a spec as JSON has it."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[:limit]} …"
