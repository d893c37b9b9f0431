"""Requests and answers of OpenAI's chat interface, as far as they are served. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from lensmith.serving.failures import RequestError
from lensmith.serving.settings import refuse_unknown, refuse_unserved

_SEED = 2**63


def _whole(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character; write it whole") from None
    return text


_MARKS = ("cache_control", "uuid")
"""Of parts: for other servers' caches."""


def _address(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_whole)]
Stop = Annotated[str, Field(min_length=1), AfterValidator(_whole)]


class _Request(BaseModel):
    # Strict: "0" is no number. Further fields are looked at by `refuse_unserved`.
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class ImageUrl(_Request):
    """Where a picture is."""

    url: Text
    """`data:image/png;base64,…`, or an address where the server allows it."""
    detail: str | None = None
    """Not looked at, as `max_dynamic_patch` is not: the model's image splitter decides."""


class TextPart(_Request):
    """Words."""

    type: Literal["text"]
    """The kind of part."""
    text: Text
    """They."""


class ImagePart(_Request):
    """A picture."""

    type: Literal["image_url"]
    """The kind of part."""
    image_url: Annotated[ImageUrl, BeforeValidator(_address, json_schema_input_type=ImageUrl | str)]
    """It; its address alone, as a text, is taken too."""


class Message(_Request):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks; `developer` is `system` under a newer name."""
    content: Text | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]
    """Words, or words and pictures in their order."""


class StreamOptions(_Request):
    """What a stream tells."""

    include_usage: bool | None = None
    """Send a last chunk with the counts of tokens."""


class ChatRequest(_Request):
    """A conversation to be continued."""

    model: str
    """The name under which the model is served."""
    messages: Annotated[list[Message], Field(min_length=1)]
    """System messages first, then user and assistant in turns, the user last."""
    stream: bool | None = None
    """Send the answer piece by piece as server-sent events."""
    stream_options: StreamOptions | None = None
    """See there."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 is greedy, and the default here, as of `lensmith generate`."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus mass when sampling; by default 1."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer; more than the server's limit or the model's context is cut to that."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The same under its newer name."""
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    """Texts that end the answer and are left out of it."""
    seed: Annotated[int, Field(ge=-_SEED, lt=_SEED)] | None = None
    """Of sampling."""
    n: int | None = None
    """Answers; 1 alone is served."""
    do_sample: bool | None = None
    """As in transformers; it must agree with `temperature`."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def longest(self) -> int | None:
        """Tokens of the longest answer that is asked for.

        Raises:
            RequestError: two different numbers.
        """
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            text = "max_tokens and max_completion_tokens are the same setting; give one"
            raise RequestError(text, param="max_tokens")
        return self.max_completion_tokens or self.max_tokens

    def refuse_unserved(self) -> None:
        """Refuse what would change the answer and is not served, and what is not known at all.

        Raises:
            RequestError: naming the first.
        """
        served = type(self).model_fields
        refuse_unserved({"n": self.n, **(self.model_extra or {})}, served)
        samples = bool(self.temperature)
        if self.do_sample is not None and self.do_sample != samples:
            text = "do_sample contradicts temperature: 0, the default, is greedy, more samples; leave do_sample out"
            raise RequestError(text, param="do_sample", code="unsupported_parameter")
        if self.stream_options is not None:
            extra = self.stream_options.model_extra or {}
            told = {name: value for name, value in extra.items() if value is not False}
            refuse_unknown(told, ("include_obfuscation",), StreamOptions.model_fields, "stream_options")
        for number, message in enumerate(self.messages):
            place = f"messages.{number}"
            refuse_unknown(message.model_extra or {}, ("name",), Message.model_fields, place)
            for at, part in enumerate(message.content if isinstance(message.content, list) else ()):
                where = f"{place}.content.{at}"
                refuse_unknown(part.model_extra or {}, _MARKS, type(part).model_fields, where)
                if isinstance(part, ImagePart):
                    extra = part.image_url.model_extra or {}
                    refuse_unknown(extra, (*_MARKS, "max_dynamic_patch"), ImageUrl.model_fields, f"{where}.image_url")


class Usage(BaseModel):
    """Counts of one answer."""

    prompt_tokens: int
    """Positions of the prompt, those of pictures included."""
    completion_tokens: int
    """Ids of the answer, without what ended it."""
    total_tokens: int
    """Both."""


class AnswerMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    """Always the assistant."""
    content: str
    """Its words."""


class Choice(BaseModel):
    """The one answer."""

    index: Literal[0] = 0
    """Always 0."""
    message: AnswerMessage
    """What the model says."""
    finish_reason: Literal["stop", "length"]
    """`stop`: it ended by itself or at a stop text; `length`: it was cut off."""
    logprobs: None = None
    """Not served."""


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    """Of the request."""
    object: Literal["chat.completion"] = "chat.completion"
    """The kind of object."""
    created: int
    """Seconds since 1970."""
    model: str
    """Its name."""
    choices: list[Choice]
    """One."""
    usage: Usage
    """Counts of tokens."""


class ServedModel(BaseModel):
    """A model that is served."""

    id: str
    """Its name."""
    object: Literal["model"] = "model"
    """The kind of object."""
    created: int
    """Seconds since 1970: when the server started."""
    owned_by: str = "lensmith"
    """Who serves it."""


class ServedModels(BaseModel):
    """All models that are served: one."""

    object: Literal["list"] = "list"
    """The kind of object."""
    data: list[ServedModel]
    """They."""


class Health(BaseModel):
    """How busy the server is."""

    status: Literal["ok"] = "ok"
    """Always `ok`."""
    running: int
    """Requests that are answered now."""
    waiting: int
    """Requests behind them."""


class ErrorBody(BaseModel):
    """What is wrong."""

    message: str
    """What and how to put it right."""
    type: str
    """`invalid_request_error` or `server_error`."""
    param: str | None = None
    """The field it is about."""
    code: str | None = None
    """A name for programs."""


class ErrorAnswer(BaseModel):
    """A refusal."""

    error: ErrorBody
    """What is wrong."""
