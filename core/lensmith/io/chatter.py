"""What libraries say on their own account, kept from users who cannot act on it."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache

VERBOSE = "LENSMITH_VERBOSE"
"""Set to 1 (as `--verbose` does), libraries say what they like; ranks inherit it."""
_LIBRARIES = r"(torch|deepspeed|transformers|peft|accelerate|timm|open_clip|bitsandbytes|triton|huggingface_hub)\b"
_LOGGERS = ("torch.utils.cpp_extension", "torch.distributed.elastic", "accelerate")


def verbose() -> bool:
    """Whether libraries may say what they like."""
    return os.environ.get(VERBOSE, "0") not in ("", "0")


@cache
def hush() -> None:
    """Before heavy libraries are imported: no word of them to each other's authors.

    Left out are deprecations (of one library's calls by another, each step anew under ZeRO-3), what setuptools says
    of distutils, and notices such as that there is no CUDA. Warnings of other kinds come through, as do all of ours.
    """
    if verbose():
        return
    for kind in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.filterwarnings("ignore", category=kind, module=_LIBRARIES)
    warnings.filterwarnings("ignore", module=r"_distutils_hack\b")
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def off_stdout() -> Iterator[None]:
    """Keep what a library prints out of standard output, which is for results; verbose, it goes to standard error."""
    with redirect_stdout(sys.stderr if verbose() else io.StringIO()):
        yield
