"""From a folder to a server that listens."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lensmith.artifacts import Manifest
from lensmith.errors import LensmithError
from lensmith.serving.limits import Limits

_GRACE = 5
"""Seconds that requests under way get when the server is told to end."""


def serve(
    artifact: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = "",
    key: str = "",
    limits: Limits | None = None,
    batch_size: int = 8,
    overrides: Sequence[str] = (),
    ready: Callable[[str, str], None] | None = None,
) -> None:
    """Serve a model until a signal ends the process.

    Args:
        artifact: what a stage wrote.
        host: address to listen at.
        port: 0 for a free one.
        name: of the model; by default the folder's.
        key: that clients must give, empty for none.
        limits: of requests.
        batch_size: answers that grow at the same time.
        overrides: where a base has moved; see `lensmith.load`.
        ready: called with the model's name and the server's address before it listens.

    Raises:
        ArtifactError: see `lensmith.load`.
        LensmithError: fastapi or uvicorn is not installed, or the address cannot be listened at.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        text = "serving needs fastapi and uvicorn; install them with: pip install 'lensmith[serve]'"
        raise LensmithError(text) from error
    Manifest.read(Path(artifact))
    limits = limits or Limits()
    with _listening(host, port) as sock:  # a port that is taken is told before weights load
        from lensmith.loading import load
        from lensmith.serving.app import create_app
        from lensmith.serving.connections import Connections, protocol
        from lensmith.serving.engine import Engine

        model = load(artifact, overrides=overrides)
        name = name or Path(artifact).resolve().name
        # With a key a page in somebody's browser has nothing to say here, whatever name it uses.
        hosts = ("localhost", "127.0.0.1", "::1", host) if is_loopback(host) and not key else ()
        connections = Connections()
        app = create_app(Engine(model, batch_size), name, limits, key=key, hosts=hosts, connections=connections)
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=_GRACE,
            http=protocol(connections),
            ws="none",
            proxy_headers=False,  # anybody could say whose request it is
            server_header=False,
        )
        shown = f"[{host}]" if ":" in host else host
        if ready is not None:
            ready(name, f"http://{shown}:{sock.getsockname()[1]}/v1")
        uvicorn.Server(config).run(sockets=[sock])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    """A bound socket."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LensmithError(f"cannot listen at {host}:{port} ({reason}); choose another --port or --host") from error
    return sock
