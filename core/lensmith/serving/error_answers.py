"""What goes wrong, answered in OpenAI's form, whatever raises it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from lensmith.serving.engine import Left
from lensmith.serving.failures import RequestError, described

_LOG = logging.getLogger("lensmith.serving")


def failure(error: BaseException) -> RequestError:
    """What a client is told of an error; the log has it whole."""
    if isinstance(error, Left):
        return RequestError("the server is shutting down", status=503, code="shutting_down")
    _LOG.error("a request failed", exc_info=error)
    return RequestError("the model failed on this request; see the server's log", status=500, code="internal_error")


def answer_errors(app: FastAPI) -> None:
    """Give an application its handlers."""

    def refuse(error: RequestError, headers: Any = None) -> JSONResponse:
        return JSONResponse(described(error), error.status, headers)

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return refuse(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # Of several readings of a field, the one that came furthest is most likely what was meant.
        worst = max(error.errors(), key=lambda one: len(one["loc"]))
        if worst["type"] == "json_invalid":
            return refuse(RequestError(f"the body is not JSON: {worst['ctx']['error']}", code="invalid_json"))
        place = _place(worst["loc"][1:])
        return refuse(RequestError(f"{place or 'the body'}: {worst['msg']}", param=place or None))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400 and "parsing the body" in str(error.detail):  # FastAPI says no more
            try:
                body = await request.body()
            except Exception:  # it never came whole
                return refuse(RequestError("the body did not come whole; send it again", code="invalid_json"))
            return refuse(RequestError(unreadable(body), code="invalid_json"))
        code = {
            404: "not_found",
            405: "method_not_allowed",
            408: "timeout",
            413: "body_too_large",
            503: "overloaded",
        }.get(error.status_code)
        told = RequestError(str(error.detail), status=error.status_code, code=code or "invalid_request")
        return refuse(told, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return refuse(failure(error))


def unreadable(body: bytes) -> str:
    """Why a body cannot be read as JSON."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{body[error.start]:02x} at {error.start}"
        return f"the body is not UTF-8 ({wrong}); encode the JSON as UTF-8, or write \\u escapes"
    try:
        json.loads(text)
    except RecursionError:
        return "the body is nested too deeply; send fewer levels"
    except ValueError as error:
        return f"the body is not JSON that can be read: {error}"
    return "the body cannot be read; send JSON in UTF-8"


def _place(loc: Sequence[str | int]) -> str:
    """Of a mistake: the fields that lead to it, without the names of types that pydantic tried."""
    kept = [part for part in loc if part != "str" and "[" not in str(part)]
    for number, part in enumerate(kept):
        if part in ("text", "image_url") and kept[max(0, number - 2) : number - 1] == ["content"]:
            del kept[number]  # the kind of part, which pydantic puts before its fields
            break
    return ".".join(map(str, kept))
