"""Check `ranks`: two real processes, one with pictures and one with text alone, do the same things in the same order.

ZeRO-3 gathers a module's weights on all ranks when one rank calls it, and ZeRO 1 to 3 reduce each gradient on all
ranks: a rank that calls a layer more often, or has a gradient less, waits for the others for ever. One pair of
processes serves all parts under test; gloo, on the CPU.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensmith.testing.kit import Kit
    from lensmith.testing.subjects import Subject

WORLD = 2
_CALLS = "A rank without pictures calls the same layers in the same order as a rank with pictures."
_GRADIENTS = "A rank without pictures gives a gradient to the same parameters as a rank with pictures."
_RUNS = "A model with the part runs forward and backward on a rank with pictures and on one with text alone."
_REDUCED = "The ranks' gradients are summed, and the sum is finite."


def ranks(subject: Subject, kit: Kit) -> None:
    """What the pair of processes saw of this part."""
    from lensmith.testing.findings import Broken, NotApplicable

    seen = kit.start_ranks().of(subject)
    if "skip" in seen:
        raise NotApplicable(seen["skip"])
    if "promise" in seen:
        raise Broken(seen["promise"], seen["seen"])


class Pair:
    """The two processes, started at once with a list of models; their results are read when they have ended."""

    def __init__(self, kit: Kit) -> None:
        from lensmith.testing.checks import CHECKS, RANKS
        from lensmith.testing.findings import NotApplicable
        from lensmith.testing.models import model_spec
        from lensmith_registry import Kind

        self.folder = kit.folder()
        self.skipped: dict[str, str] = {}
        applicable = next(check for check in CHECKS if check.name == RANKS)
        cases: list[dict[str, Any]] = []
        for component in kit.components:
            if component.kind not in applicable.code or kit.unusable(component):
                continue
            subject = kit.subject(component)
            tuner = subject.spec if component.kind == Kind.TUNER else None
            try:
                if tuner is not None and (unmet := tuner.unmet(zero=0)):
                    raise NotApplicable("; ".join(unmet))
                model = model_spec(kit, subject).model_dump(mode="json")
            except NotApplicable as reason:
                self.skipped[str(component)] = str(reason)
                continue
            except Exception as error:
                self.skipped[str(component)] = f"no model could be made with it: {error}"
                continue
            described = tuner.model_dump(mode="json") if tuner is not None else None
            cases.append({"part": str(component), "model": model, "tuner": described})
        self.order = [case["part"] for case in cases]
        (self.folder / "cases.json").write_text(json.dumps(cases))
        self.limit = 120 + 10 * len(cases)
        self.started = time.monotonic()
        self.process = self._start(kit.environment()) if cases else None

    def _start(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(WORLD)}
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "lensmith.testing.ranks", str(self.folder)],
                env=environment | rendezvous,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of their own, so that all of them can be ended
            )

    def of(self, subject: Subject) -> dict[str, str]:
        """The result of one part: `skip` why, or `promise` and `seen`, or nothing."""
        part = str(subject.component)
        if part in self.skipped:
            return {"skip": self.skipped[part]}
        code = self._wait()
        results = self.folder / "results.jsonl"
        lines = results.read_text().splitlines() if results.is_file() else []
        by_part = {entry.pop("part"): entry for entry in map(json.loads, lines)}
        if part in by_part:
            return dict(by_part[part])
        guilty = next(case for case in self.order if case not in by_part)
        if part != guilty:
            return {"skip": f"the processes ended at {guilty}, before its turn"}
        log = " ".join((self.folder / "log").read_text(errors="replace").split())[-600:]
        return {"promise": _RUNS, "seen": f"The processes ended with {code}, saying: {log or 'nothing'}."}

    def _wait(self) -> int | None:
        if self.process is None:
            return None
        try:
            return self.process.wait(max(1.0, self.limit - (time.monotonic() - self.started)))
        except subprocess.TimeoutExpired:
            self.stop()
            return self.process.returncode

    def stop(self) -> None:
        """End what still runs."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def main(folder: Path) -> int:
    """Import once, then be two: each a rank. Where one fails, the other would wait for it and is ended."""
    import torch
    import transformers.modeling_utils  # seconds, spent once

    import lensmith.assembly  # noqa: F401

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    ranks = [_fork(rank, folder) for rank in range(WORLD)]
    while ranks:
        ended, status = os.wait()
        ranks.remove(ended)
        if status:
            for rank in ranks:
                os.kill(rank, signal.SIGKILL)
            return 1
    return 0


def _fork(rank: int, folder: Path) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        _rank(rank, folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _rank(rank: int, folder: Path) -> None:
    """Build each model, run it, and compare with the other rank."""
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    for case in json.loads((folder / "cases.json").read_text()):
        try:
            model, calls = _step(case, pictures=rank == 0)
            mine: dict[str, Any] = {
                "calls": calls,
                "gradients": [name for name, p in model.named_parameters() if p.grad is not None],
            }
        except (Exception, SystemExit) as error:
            from lensmith.testing.findings import told

            mine = {"error": told(error)}
        both: list[Any] = [None] * WORLD
        dist.all_gather_object(both, mine)
        seen = _compared(both)
        if not seen:
            finite = True
            for parameter in model.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    finite = finite and bool(parameter.grad.isfinite().all())
            seen = {} if finite else {"promise": _REDUCED, "seen": "It is not."}
        if rank == 0:
            with (folder / "results.jsonl").open("a") as results:
                results.write(json.dumps({"part": case["part"], **seen}) + "\n")
    dist.destroy_process_group()


def _step(case: dict[str, Any], *, pictures: bool) -> tuple[Any, list[str]]:
    import torch

    from lensmith import Kind, assemble, implementation
    from lensmith.spec.build import installed, load_spec, part_class
    from lensmith.testing.models import batch

    tuner = None
    if case["tuner"] is not None:
        described = part_class(Kind.TUNER, case["tuner"]["name"], installed()).model_validate(case["tuner"])
        tuner = implementation(Kind.TUNER, described)(described)
    model = assemble(load_spec({"model": case["model"]}), tuner=tuner)
    torch.manual_seed(0)
    if tuner is not None:
        tuner.prepare(model)
    else:
        model.requires_grad_(True)
    model.train()
    calls: list[str] = []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    model(batch(model, pictures=pictures), dummy_picture=not pictures).backward()
    return model, calls


def _compared(both: list[dict[str, Any]]) -> dict[str, str]:
    for who, one in zip(("with pictures", "with text alone"), both, strict=True):
        if "error" in one:
            return {"promise": _RUNS, "seen": f"On the rank {who} {one['error']}."}
    shown, plain = both
    for number, (one, other) in enumerate(zip_longest(shown["calls"], plain["calls"])):
        if one != other:
            seen = f"Call {number + 1} was of {one or 'nothing'} with pictures, of {other or 'nothing'} without."
            return {"promise": _CALLS, "seen": seen}
    apart = sorted(set(shown["gradients"]) ^ set(plain["gradients"]))
    if apart:
        only = "pictures" if apart[0] in shown["gradients"] else "text alone"
        return {"promise": _GRADIENTS, "seen": f"{apart[0]} ({len(apart)} in all) got one only with {only}."}
    return {}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
