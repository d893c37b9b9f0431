"""The kit: which parts are tested, their tiny specs, and what the checks share (folders, processes)."""

from __future__ import annotations

import difflib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.errors import LensmithError
from lensmith.spec.build import installed, part_class
from lensmith.testing.checks import CHECKS, NAMES, RANKS, Check
from lensmith.testing.findings import Broken, Finding, NotApplicable, told
from lensmith_registry import Component, Kind, RegistryError, UnknownComponentError
from lensmith_registry.hooks import PROJECT

if TYPE_CHECKING:
    from lensmith.testing.ranks import Pair
    from lensmith.testing.subjects import Subject

_TINY = "`tiny(folder)` of the spec gives the part at its smallest, which builds in an instant and needs no download."


class Kit:
    """Tests parts; to be used in a `with` statement, which removes its files and processes at the end.

    Args:
        target: what to test: a distribution, a plugin's name or a component's name; None for all parts of other
            packages than this one.
        checks: names of the checks to run; all by default.

    Raises:
        LensmithError: nothing is called so, or there is no such check; says what there is.
    """

    def __init__(self, target: str | None = None, checks: Sequence[str] = ()) -> None:
        if unknown := [name for name in checks if name not in NAMES]:
            raise LensmithError(f"there is no check {unknown[0]!r}; the checks are {', '.join(NAMES)}")
        self.checks: tuple[Check, ...] = tuple(c for c in CHECKS if not checks or c.name in checks)
        self.registry = installed()
        self.components = _chosen(target)
        self.seen_light: dict[str, str] | None = None
        self.pair: Pair | None = None
        self._root: tempfile.TemporaryDirectory[str] | None = None
        self._subjects: dict[str, Subject | Broken] = {}

    def __enter__(self) -> Kit:
        self._root = tempfile.TemporaryDirectory(prefix="lensmith-conformance-")
        return self

    def __exit__(self, *_: object) -> None:
        if self.pair is not None:
            self.pair.stop()
        if self._root is not None:
            self._root.cleanup()

    def folder(self) -> Path:
        """An empty folder that goes when the kit does."""
        assert self._root is not None, "use the kit in a `with` statement"
        return Path(tempfile.mkdtemp(dir=self._root.name))

    def environment(self) -> dict[str, str]:
        """Of processes that must find what this one finds, offline and on one thread."""
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
            "DEEPSPEED_LOG_LEVEL": "error",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }

    def own(self, kind: Kind) -> Iterator[Component]:
        """The project's own parts of a kind, which stand around a part under test."""
        return (component for component in self.registry.components(kind) if component.distribution == PROJECT)

    def subject(self, component: Component) -> Subject:
        """A part with its tiny spec, made once.

        Raises:
            Broken: its module or its tiny spec cannot be had.
        """
        key = str(component)
        if key not in self._subjects:
            try:
                self._subjects[key] = self._made(component)
            except Broken as error:
                self._subjects[key] = error
        found = self._subjects[key]
        if isinstance(found, Broken):
            raise found
        return found

    def unusable(self, component: Component) -> Broken | None:
        """Why a part cannot be tested at all."""
        try:
            self.subject(component)
        except Broken as error:
            return error
        return None

    def _made(self, component: Component) -> Subject:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        try:
            implementation = component.load()
        except RegistryError as error:
            raise Broken("The implementation that a record names can be imported.", f"{error}.") from error
        home = self.folder()
        try:
            import torch

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                spec = part_class(component.kind, component.name, self.registry).tiny(home)
        except Exception as error:
            raise Broken(_TINY, f"{told(error)}.") from error
        subject: Subject = _subject_class(component.kind)(component, spec, implementation, home)
        return subject

    def run(self, component: Component, check: Check) -> Finding:
        """One check of one part. What any check raises is a finding."""
        function = check.function(component.kind)
        if function is None:
            return Finding(component, check.name, "not applicable", seen=f"not for a {component.kind}")
        unusable = self.unusable(component)
        if unusable is not None:
            if check.name == self.checks[0].name:
                return Finding(component, check.name, "fail", unusable.promise, unusable.seen)
            return Finding(component, check.name, "not applicable", seen=f"see {self.checks[0].name}")
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.random.fork_rng(devices=[]):
                function(self.subject(component), self)
        except NotApplicable as reason:
            return Finding(component, check.name, "not applicable", seen=str(reason))
        except Broken as error:
            return Finding(component, check.name, "fail", error.promise, error.seen)
        except (Exception, SystemExit) as error:
            promise = f"The part does what the check asks of it: {check.about}."
            return Finding(component, check.name, "fail", promise, f"{told(error)}.")
        finally:
            torch.set_num_threads(threads)
        return Finding(component, check.name, "pass")

    def findings(self) -> Iterator[Finding]:
        """Every check of every part, part by part. The two processes of `ranks` run meanwhile."""
        if any(check.name == RANKS for check in self.checks):
            self.start_ranks()
        early = {(c, k): self.run(c, k) for c in self.components for k in self.checks if k.name != RANKS}
        for component in self.components:
            for check in self.checks:
                yield early.get((component, check)) or self.run(component, check)

    def start_ranks(self) -> Pair:
        """The two processes, started once."""
        if self.pair is None:
            from lensmith.testing.ranks import Pair

            self.pair = Pair(self)
        return self.pair


def _subject_class(kind: Kind) -> Any:
    from lensmith.testing import subjects

    return {
        Kind.VISION_ENCODER: subjects.EncoderSubject,
        Kind.IMAGE_SPLITTER: subjects.SplitterSubject,
        Kind.CONNECTOR: subjects.ConnectorSubject,
        Kind.LANGUAGE_MODEL: subjects.LanguageSubject,
    }.get(kind, subjects.Subject)


def _chosen(target: str | None) -> list[Component]:
    """The parts that a user means.

    Raises:
        LensmithError: nobody is called so, or the package failed.
        DuplicateComponentError: two packages claim the part.
    """
    registry = installed()
    if target is None:
        found = [c for c in registry.components() if c.distribution != PROJECT]
        if not found:
            raise LensmithError(
                f"no package with parts is installed beside {PROJECT} itself; name a package or a part, e.g."
                f" `lensmith plugin test {PROJECT}` for the built-in ones"
            )
        return found
    plugins = [p for p in registry.plugins if target == p.name or _normal(target) == _normal(p.distribution)]
    if failed := [p for p in plugins if p.error]:
        raise LensmithError(f"{failed[0].distribution} {failed[0].version} failed: {failed[0].error}")
    if plugins:
        offered = [registry.placed(c) for plugin in plugins for c in plugin.components]
        if not offered:
            raise LensmithError(f"{target} offers no parts, so there is nothing to test")
        order = list(Kind)
        return sorted(offered, key=lambda c: (order.index(c.kind), c.name))
    named = []
    for kind in Kind:
        with suppress(UnknownComponentError):
            named.append(registry.get(kind, target))
    if not named:
        packages = sorted({p.distribution for p in registry.plugins})
        names = [*packages, *(c.name for c in registry.components())]
        close = difflib.get_close_matches(target.lower(), dict.fromkeys(names), n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise LensmithError(
            f"neither a package nor a part is called {target!r}.{hint} Packages: {', '.join(packages)}. Parts: see"
            " `lensmith list`, and `lensmith plugins` for packages that failed."
        )
    return named


def _normal(name: str) -> str:
    """A distribution's name as the packaging rules compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
