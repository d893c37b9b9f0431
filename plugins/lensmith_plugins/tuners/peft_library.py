"""The one door to peft: what it says on import that no user can use is held back."""

from __future__ import annotations

import logging


class _NoKernelNotice(logging.Filter):
    """bitsandbytes' CPU backend misses an optional kernel of the hub, and says so in every command."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything else through."""
        return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_NoKernelNotice())

import peft  # noqa: E402 - imports bitsandbytes where it is installed
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING  # noqa: E402
from peft.utils import get_peft_model_state_dict  # noqa: E402

__all__ = ["PEFT_TYPE_TO_CONFIG_MAPPING", "PEFT_TYPE_TO_TUNER_MAPPING", "get_peft_model_state_dict", "peft"]
