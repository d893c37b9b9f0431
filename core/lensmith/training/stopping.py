"""Stop a run where it can be resumed: signals ask, ranks agree, the stage saves."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

from lensmith.training import distributed
from lensmith.training.launch import SIGNALS


class StopRequest:
    """While it is entered, a signal to stop is noted and no longer ends the process.

    The signals are those of a scheduler, of Ctrl-C and of a terminal that closes. A second Ctrl-C ends the process as
    ever; further signals of a scheduler change nothing, since it has SIGKILL.

    Args:
        device: where the ranks compare notes.
        quick: a second Ctrl-C ends the process. Not in a worker, which hears of one Ctrl-C from several sides.
    """

    def __init__(self, device: torch.device, *, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.received = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        """Listen, where this is the main thread: others get no signals."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` asks
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let signals do again what they did. A worker that is about to stop does not hear a second one."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.received and not self.quick else handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received:
            return
        self.received = number
        if self.quick and signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])  # type: ignore[arg-type]
        if distributed.rank() == 0:
            # `print` may be in the middle of another line that this interrupts.
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: stopping after this step, with a checkpoint\n".encode())

    def agreed(self) -> int:
        """The signal that any rank received, 0 for none; the same on all ranks, which must all ask."""
        return int(distributed.reduce([self.received], dist.ReduceOp.MAX, self.device)[0])
