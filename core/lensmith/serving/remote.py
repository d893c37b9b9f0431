"""Pictures from the network, for servers that are told to fetch them: public addresses alone, bounded in all ways."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from lensmith.serving.failures import RequestError
from lensmith.serving.limits import MIB

_REDIRECTS = 3
_SILENCE = 5.0
"""Seconds without a byte."""
_SECONDS = 20.0
"""For all pictures of a request, redirects included."""
_CARRIERS = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]
"""Public addresses that hide others: NAT64, 6to4, Teredo."""


def deadline() -> float:
    """When a request that comes now has had its time."""
    return time.monotonic() + _SECONDS


def fetch(url: str, place: str, limit: int, until: float) -> bytes:
    """A file behind an address. Proxies of the environment are not used.

    The name is looked up once and the connection goes to what was checked, so that a name that changes its mind
    reaches nothing.

    Args:
        url: http or https.
        place: where it stands in the request, for messages.
        limit: bytes.
        until: see `deadline`.

    Raises:
        RequestError: another scheme, an address that is not public, silence, too many redirects or bytes, or a status
            other than 200.
    """
    for _ in range(_REDIRECTS + 1):
        parts = _parts(url, place)
        try:
            found = _get(parts, place, limit, until)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _refusal(place, f"cannot be fetched ({type(error).__name__}: {error})") from error
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise _refusal(place, f"leads on more than {_REDIRECTS} times")


def _parts(url: str, place: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refusal(place, f"is no address ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise _refusal(place, "is neither a data URL nor an http or https address")
    if parts.username is not None:
        raise _refusal(place, "holds a user name; leave it out")
    return parts


def _get(parts: SplitResult, place: str, limit: int, until: float) -> bytes | str:
    """The body, or where it leads on to."""
    host = str(parts.hostname)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = _public(host, port, place)
    connection = http.client.HTTPConnection(host, port)
    plain = socket.create_connection((address, port), timeout=_left(until))
    # However slowly the other side drips, the clock ends it.
    clock = threading.Timer(_left(until, all_of_it=True), _hang_up, [plain])
    clock.daemon = True
    clock.start()
    try:
        secure = parts.scheme == "https"
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"User-Agent": "lensmith", "Accept": "image/*"})
        answer = connection.getresponse()
        if answer.status in (301, 302, 303, 307, 308) and (onward := answer.getheader("Location")):
            return onward
        if answer.status != 200:
            raise _refusal(place, f"answers with status {answer.status}")
        data = bytearray()
        while piece := answer.read1(65536):
            data += piece
            if len(data) > limit:
                text = f"{place} is more than {limit / MIB:g} MiB; give a smaller picture"
                raise RequestError(text, status=413, param=place, code="image_too_large")
        return bytes(data)
    finally:
        clock.cancel()
        connection.close()
        plain.close()


def _public(host: str, port: int, place: str) -> str:
    """The address of a host, if all that it has are public."""
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refusal(place, f"names a host that is not found ({error})") from error
    addresses = [str(entry[4][0]) for entry in known]
    if not addresses or not all(is_public(address) for address in addresses):
        raise _refusal(place, "names an address that is not public; this server fetches public ones alone")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public network and hides no other address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if any(ip in net for net in _CARRIERS):
            return False
    return ip.is_global and not ip.is_multicast


def _left(until: float, *, all_of_it: bool = False) -> float:
    left = max(0.01, until - time.monotonic())
    return left if all_of_it else min(_SILENCE, left)


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _refusal(place: str, problem: str) -> RequestError:
    return RequestError(f"{place} {problem}", param=place, code="invalid_image_url")
