"""A judge behind an OpenAI-compatible endpoint, whichever limit of tokens it takes and whether it thinks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lensmith.errors import LensmithError
from lensmith.evaluation.judge import Ask, Reply
from lensmith.evaluation.reasoning import without_reasoning
from lensmith.interfaces.benchmark import JudgeRequest

_KEY_VARIABLE = "OPENAI_API_KEY"
ROOM = (4096, 16384)
"""Tokens that a judge gets beside those of its reply once it was seen to think first."""
_SHOWN = 300
_CHANGES = 6


@dataclass
class _Manner:
    """How an endpoint wants to be asked, as learnt from its answers; all threads learn together."""

    limit: str = "max_tokens"
    temperature: bool = True
    system: bool = True
    room: int = 0


def openai_judge(
    url: str | None,
    *,
    timeout: float = 600.0,
    retries: int = 5,
    max_tokens: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Ask:
    """A chat-completions endpoint; its key is in the environment variable OPENAI_API_KEY, where it wants one.

    Models that take `max_completion_tokens` alone, no temperature, or no system message are asked as they want it;
    those that think first get room for it, and what they thought is left out.

    Args:
        url: base of the endpoint, e.g. `http://localhost:8000/v1`; None for the library's own.
        timeout: seconds for a reply.
        retries: further attempts where the endpoint is busy, fails or cannot be reached.
        max_tokens: longest reply, thoughts included; by default the benchmark's, and more for judges that think.
        say: called with what is asked in another way than the benchmark has it.

    Raises:
        LensmithError: the library is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise LensmithError(
            f"judges are asked with the openai library: pip install 'lensmith[eval]' ({error})"
        ) from error
    key = os.environ.get(_KEY_VARIABLE)
    if url is None and not key:
        raise LensmithError(f"set {_KEY_VARIABLE}, or say where the judge is with --judge-url")
    client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout, max_retries=retries)
    manner = _Manner()

    def ask(request: JudgeRequest) -> Reply:
        for _ in range(_CHANGES):
            told = _Manner(**vars(manner))
            try:
                answer = client.chat.completions.create(**_arguments(request, told, max_tokens))
                text, cut = _text(answer)
            except openai.OpenAIError as error:
                if _learnt(manner, told, error, request, max_tokens, say):
                    continue
                raise _failed(request, _explained(error, request, str(client.base_url))) from error
            except (AttributeError, IndexError, TypeError, ValueError) as error:
                raise LensmithError(
                    f"what answered {request.key} at {client.base_url} is no chat-completions endpoint ({error!r})"
                ) from error
            if cut and not text and max_tokens is None and _more_room(manner, told, request, say):
                continue
            usage = answer.usage
            return Reply(text, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0)
        raise _failed(request, "it refuses every way of asking; --judge-model names another")

    return ask


def _arguments(request: JudgeRequest, manner: _Manner, max_tokens: int | None) -> dict[str, Any]:
    messages = [dict(message) for message in request.messages]
    if not manner.system and len(messages) > 1 and messages[0]["role"] == "system":
        words = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        messages = [{**messages[1], "content": words}, *messages[2:]]
    limit = max_tokens or request.max_tokens + manner.room
    temperature = {"temperature": request.temperature} if manner.temperature else {}
    return {"model": request.model, "messages": messages, manner.limit: limit, **temperature}


def _text(answer: Any) -> tuple[str, bool]:
    """The words of an answer without reasoning, and whether it was cut off."""
    choice = answer.choices[0]
    content = choice.message.content
    if isinstance(content, list):  # some endpoints answer in parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return without_reasoning(content or ""), choice.finish_reason == "length"


def _learnt(
    manner: _Manner,
    told: _Manner,
    error: Any,
    request: JudgeRequest,
    max_tokens: int | None,
    say: Callable[[str], None],
) -> bool:
    """Whether a refusal says how the endpoint wants to be asked instead, and it was not asked so yet."""
    if getattr(error, "status_code", None) not in (400, 422):
        return False
    message = _message(error).lower()
    if "max_completion_tokens" in message and told.limit == "max_tokens":
        manner.limit = "max_completion_tokens"
        return True
    if "temperature" in message and told.temperature:
        if manner.temperature:
            say(f"the judge {request.model} takes no temperature of {request.temperature:g}: asked with its own")
        manner.temperature = False
        return True
    if "system" in message and "role" in message and told.system:
        manner.system = False
        return True
    if max_tokens is None and any(words in message for words in ("output limit was reached", "at least", "minimum")):
        return "token" in message and _more_room(manner, told, request, say)
    return False


def _more_room(manner: _Manner, told: _Manner, request: JudgeRequest, say: Callable[[str], None]) -> bool:
    """Give a judge that thinks first more tokens; false where it had all of them already."""
    more = [room for room in ROOM if room > told.room]
    if more and manner.room < more[0]:
        manner.room = more[0]
        say(f"the judge {request.model} thinks first: {more[0]:,} tokens more for each reply (--judge-max-tokens)")
    return bool(more)


def _failed(request: JudgeRequest, why: str) -> LensmithError:
    return LensmithError(f"the judge {request.model} did not answer {request.key}: {why}")


def _message(error: Any) -> str:
    """What an endpoint said, on one line."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    said = inner.get("message") if isinstance(inner, Mapping) else inner
    text = " ".join(str(said or getattr(error, "message", error)).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _explained(error: Any, request: JudgeRequest, url: str) -> str:
    """Why a request failed and what to change."""
    status = getattr(error, "status_code", None)
    said = _message(error)
    if status in (400, 422):
        return (
            f"it refuses the request ({status}): {said}; --judge-model, --judge-temperature and --judge-max-tokens"
            " change what it is asked"
        )
    if status in (401, 403):
        return f"{url} does not take the key in {_KEY_VARIABLE} ({status}): {said}"
    if status == 404:
        return f"{url} has no model {request.model}, or no chat completions there (404): {said}; see --judge-model"
    if status == 429:
        return f"it is busy or its quota is used up (429): {said}; --judge-parallel 1 asks more slowly"
    if status is None:
        cause = error.__cause__
        why = f" ({cause})" if cause is not None and str(cause) else ""
        return f"{url} cannot be reached or does not answer in time: {said}{why}"
    return f"the endpoint fails ({status}): {said}"
