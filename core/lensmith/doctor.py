"""Whether this installation and machine are what Lensmith was tested on: what `lensmith doctor` prints."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lensmith import tested
from lensmith_registry import Probe, Registry, discover

State = Literal["ok", "note", "warning", "FAILED"]
_FREE = 10e9
"""Bytes free below which a disk is worth a warning: a 7B model's weights are 14 GB, its checkpoints more."""
_OPEN_FILES = 1024
_SHARED_MEMORY = 1e9
_PROBES = (Probe("state files are written and read back", "deepspeed", "lensmith.training.state_files:probe"),)
"""What core itself needs of libraries; plugins add theirs."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        section, name: what was looked at.
        state: `FAILED` is what will not work, `warning` what was not tested or may run out.
        value: what was found.
        cure: what to do about it; empty where there is nothing to do.
    """

    section: str
    name: str
    state: State
    value: str
    cure: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, cheap things first; no look raises."""
    registry = discover()
    looks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("hardware", _hardware),
        ("disk", _disks),
        ("plugins", lambda: _plugins(registry)),
        ("probes", lambda: _probes([*_PROBES, *registry.probes()])),
    ]
    for section, look in looks:
        try:
            yield from look()
        except Exception as error:  # a doctor that dies tells nothing
            yield Finding(section, "", "FAILED", f"cannot be looked at: {_line(error)}")


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "lensmith", "ok", tested.installed("lensmith") or "not installed as a package")
    found = f"{sys.version_info[0]}.{sys.version_info[1]}"
    known = tested.python()
    yield Finding(
        "versions",
        "python",
        "ok" if known.holds(found) else "warning",
        f"{platform.python_version()} ({platform.system()} {platform.machine()}); tested: {known}",
        "" if known.holds(found) else f"Lensmith was tested with Python {known} alone",
    )
    for name, library in tested.libraries().items():
        number = tested.installed(name)
        if number is None:
            yield Finding("versions", name, "FAILED", "not installed", f'pip install "{name}=={library.newest}"')
        elif library.holds(number):
            yield Finding("versions", name, "ok", f"{number}; tested: {library}")
        else:
            cure = f'pip install "{name}=={library.newest}" if something fails'
            yield Finding("versions", name, "warning", f"{number}; tested: {library}", cure)


def _hardware() -> Iterator[Finding]:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    yield Finding("hardware", "cores", "ok", str(cores))
    yield Finding("hardware", "memory", "ok", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free")
    yield from _limits()
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            value = f"{properties.name}, {total / 1e9:.1f} GB, {free / 1e9:.1f} GB free, CUDA {torch.version.cuda}"
            yield Finding("hardware", f"GPU {index}", "ok", value)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        built = (
            f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch was built without CUDA"
        )
        yield Finding("hardware", "accelerator", "note", f"none that torch can use; {built}; training runs on the CPU")
        capabilities = torch.cpu.get_capabilities()
        bf16 = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    chosen = "bf16" if bf16 else "fp32: this hardware does not multiply in bf16"
    yield Finding("hardware", "precision: auto", "ok", chosen)


def _limits() -> Iterator[Finding]:
    with contextlib.suppress(ImportError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = 0 < soft < _OPEN_FILES
        cure = "raise it (`ulimit -n 4096`), or set stages.NAME.data.workers: 0" if few else ""
        yield Finding("hardware", "open files", "warning" if few else "ok", str(soft), cure)
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        small = size < _SHARED_MEMORY
        cure = "in a container: `--shm-size=8g`, or set stages.NAME.data.workers: 0" if small else ""
        yield Finding("hardware", "/dev/shm", "warning" if small else "ok", f"{size / 1e9:.1f} GB", cure)


def _disks() -> Iterator[Finding]:
    import tempfile

    from huggingface_hub import constants

    for name, folder in (
        ("this folder", Path.cwd()),
        ("temporary files", Path(tempfile.gettempdir())),
        ("hub cache", Path(constants.HF_HUB_CACHE)),
    ):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        value = f"{folder}: {free / 1e9:.1f} GB free" + ("" if there == folder else " (not made yet)")
        if not os.access(there, os.W_OK):
            yield Finding("disk", name, "warning", f"{value}, not writable", "choose another folder, or its rights")
        elif free < _FREE:
            yield Finding("disk", name, "warning", value, "weights and checkpoints of a 7B model take 14 GB and more")
        else:
            yield Finding("disk", name, "ok", value)
    if constants.HF_HUB_OFFLINE:
        yield Finding("disk", "model hub", "note", "HF_HUB_OFFLINE is set: only what is cached is found")


def _plugins(registry: Registry) -> Iterator[Finding]:
    whole = registry.imported()
    working = [p for p in whole.plugins if not p.error and not p.disabled]
    packages = sorted({f"{p.distribution} {p.version}" for p in working})
    parts = sum(len(p.components) for p in working)
    yield Finding("plugins", "working", "ok", f"{len(working)} with {parts} parts, of {', '.join(packages) or 'none'}")
    for plugin in whole.plugins:
        named = f"{plugin.name} of {plugin.distribution} {plugin.version}"
        if plugin.error:
            yield Finding("plugins", named, "FAILED", " ".join(plugin.error.split()), plugin.remedy)
        elif plugin.disabled:
            yield Finding("plugins", named, "note", "disabled by LENSMITH_DISABLE_PLUGINS")
    for conflict in whole.conflicts():
        yield Finding("plugins", "conflict", "warning", conflict)


def _probes(probes: list[Probe]) -> Iterator[Finding]:
    for probe in probes:
        began = time.perf_counter()
        try:
            with _silence():
                note = probe.run()
        except Exception as error:
            # A wrong answer is a LibraryError and names versions; anything else is a changed interface.
            told = _line(error) if isinstance(error, tested.LibraryError) else _unforeseen(probe, error)
            yield Finding("probes", probe.name, "FAILED", told)
            continue
        seconds = time.perf_counter() - began
        value = f"{probe.library}{f': {note}' if note else ''} ({seconds:.1f} s)"
        yield Finding("probes", probe.name, "ok", value)


def _unforeseen(probe: Probe, error: Exception) -> str:
    return _line(tested.LibraryError(probe.library, f"{type(error).__name__}: {error}"))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what libraries say on their own: the report is what counts."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(logging.NOTSET)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 600 else f"{text[:600]} …"
