"""GPUs that a plan can be costed on. Their constants are inputs: every one can be set by the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lensmith.errors import Problem, SpecError


@dataclass(frozen=True)
class Hardware:
    """One GPU.

    Args:
        name: for tables.
        flops: dense multiplications and additions a second in bf16 (fp16 where there is none), without sparsity, as
            the maker states.
        memory: bytes.
        price: of an hour, in any currency; None where the user gave none.
        utilisation: share of `flops` that training reaches.
    """

    name: str
    flops: float
    memory: float
    price: float | None = None
    utilisation: float = 0.4


KNOWN = {
    gpu.name: gpu
    for gpu in (
        Hardware("v100-32g", 125e12, 32e9),
        Hardware("a100-40g", 312e12, 40e9),
        Hardware("a100-80g", 312e12, 80e9),
        Hardware("a6000-48g", 155e12, 48e9),
        Hardware("rtx4090-24g", 165e12, 24e9),
        Hardware("l40s-48g", 362e12, 48e9),
        Hardware("h100-80g", 989e12, 80e9),
        Hardware("h200-141g", 989e12, 141e9),
        Hardware("b200-180g", 2250e12, 180e9),
        Hardware("mi300x-192g", 1307e12, 192e9),
    )
}
"""By name: the makers' dense 16-bit figures and memory."""

_MOST = 1_000_000
_NUMBERED = re.compile(r"(?:(?P<before>\d+)\s*x\s*)?(?P<name>.+?)(?:\s*x\s*(?P<after>\d+))?\Z", re.IGNORECASE)
_SPACED = re.compile(r"(?:(?P<before>\d+)\s*x\s+)?(?P<name>.+?)(?:\s+x\s*(?P<after>\d+))?\Z", re.IGNORECASE)
"""For names that are not known, which may have an `x` of their own (rtx9999)."""


def parse_hardware(
    text: str | Sequence[str],
    *,
    flops: float | None = None,
    memory: float | None = None,
    price: float | None = None,
    utilisation: float | None = None,
) -> tuple[Hardware, int]:
    """A GPU and how many of it.

    Args:
        text: `a100-80g`, `a100-80g x 8`, `8 x a100-80g`, or the words of it. A name that is not known needs `flops`
            and `memory`.
        flops, memory, price, utilisation: instead of the known ones; see `Hardware`.

    Raises:
        SpecError: an unknown name without its constants, or no GPU at all.
    """
    written = text if isinstance(text, str) else " ".join(text)
    match = _NUMBERED.fullmatch(written.strip())
    if match is not None and match["name"].strip().lower() not in KNOWN:
        match = _SPACED.fullmatch(written.strip())
    if match is None or (match["before"] and match["after"]):
        raise _wrong(f"should be like `a100-80g x 8`; it is {written!r}")
    name, count = match["name"].strip().lower(), int(match["before"] or match["after"] or 1)
    if count < 1:
        raise _wrong(f"needs one GPU at least; it is {written!r}")
    gpu = KNOWN.get(name)
    if gpu is None:
        gpu = _meant(name) if flops is None or memory is None else Hardware(name, flops, memory)
    if count > _MOST:
        raise _wrong(f"{count:,} GPUs are more than there are in any cluster; at most {_MOST:,}")
    given: dict[str, Any] = {"flops": flops, "memory": memory, "price": price, "utilisation": utilisation}
    return replace(gpu, **{key: value for key, value in given.items() if value is not None}), count


def _meant(name: str) -> Hardware:
    """A GPU by a part of its name that no other has: `h100`, `H100 80GB`, `nvidia-h200`, `4090`.

    Raises:
        SpecError: it is the name of several, or of none.
    """
    letters = re.sub(r"nvidia|amd|geforce|tesla|instinct|sxm\d?|pcie|nvl|[^a-z0-9]", "", name.lower())
    letters = re.sub(r"(\d)gb\Z", r"\1g", letters)
    plain = {known: known.replace("-", "") for known in KNOWN}
    found = [known for known, text in plain.items() if letters and letters in text]
    if len(found) == 1 and any(character.isdigit() for character in letters):
        return KNOWN[found[0]]
    if found:
        raise _wrong(f"{name!r} is {' or '.join(found)}; say which")
    raise _wrong(f"{name!r} is not known; one of {', '.join(KNOWN)}, or give --tflops and --gpu-memory")


def _wrong(message: str) -> SpecError:
    return SpecError([Problem("--hardware", message)])
