"""Who may ask at all: looked at before a request's body is read."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from lensmith.serving.failures import RequestError, described

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class Gate:
    """Turns away requests under wrong names and without the key.

    Args:
        app: what is behind it.
        key: that clients must give, empty for none; `/health` is asked without.
        hosts: the only names that requests may call this server by, so that a page in a browser cannot reach it under
            a name of its own; empty for any.
    """

    def __init__(self, app: ASGIApp, key: str = "", hosts: tuple[str, ...] = ()) -> None:
        self.app = app
        self.key = key
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
        await JSONResponse(described(refusal), refusal.status, headers)(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = dict(scope["headers"])
        if self.hosts and _name(headers.get(b"host", b"").decode("latin-1")) not in self.hosts:
            text = f"this server answers to {', '.join(self.hosts)} alone; start it with --api-key to use other names"
            return RequestError(text, status=403, code="wrong_host")
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        right = kind.lower() == b"bearer" and secrets.compare_digest(given.strip(), self.key.encode())
        if self.key and not right and scope["path"] != "/health":
            text = "no or a wrong key; give the one that the server was started with"
            return RequestError(text, status=401, code="invalid_api_key")
        return None


def _name(host: str) -> str:
    """Of a `Host` header, without its port."""
    name, _, port = host.rpartition(":")
    return (name if port.isdigit() else host).strip("[]").lower()
