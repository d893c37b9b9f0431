"""What a server takes from strangers. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    Args:
        body: bytes of a request.
        picture: bytes of one picture's file.
        pixels: of all pictures of a request together, read from their headers before anything is decoded.
        pictures: of a request.
        tokens: of an answer, and its length where a request names none.
        waiting: requests that are being read, waiting or answered.
        of_one: of those, the requests of one address; by default three quarters.
        remote: whether pictures are fetched from the addresses that requests name.
    """

    body: int = 32 * MIB
    picture: int = 20 * MIB
    pixels: int = 40_000_000
    pictures: int = 16
    tokens: int = 1024
    waiting: int = 64
    remote: bool = False
    of_one: int = 0

    def __post_init__(self) -> None:
        if not self.of_one:
            object.__setattr__(self, "of_one", max(1, self.waiting * 3 // 4))
