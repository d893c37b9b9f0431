"""Keep transformers from printing what Lensmith reports itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet(*, progress: bool = False) -> Iterator[None]:
    """Let only errors through.

    Args:
        progress: leave progress bars on, for what may be a long download.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if bars and not progress:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars and not progress:
            logging.enable_progress_bar()
