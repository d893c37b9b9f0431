"""Errors as OpenAI's clients read them. No torch here."""

from __future__ import annotations

from typing import Any


class RequestError(Exception):
    """A request that is refused.

    Args:
        message: what is wrong and what to do.
        status: HTTP status.
        param: the field it is about.
        code: a short name of the error for programs.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = "invalid_request"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def described(error: RequestError) -> dict[str, Any]:
    """The body of an answer that refuses."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    # Half of a surrogate pair in a client's text would not go back over the wire.
    told = str(error).encode("utf-8", "replace").decode()
    return {"error": {"message": told, "type": kind, "param": error.param, "code": error.code}}
