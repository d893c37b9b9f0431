"""Importer and exporter: a checkpoint of another project to an artifact's parts, and an artifact to its files.

No torch here. Tensors go through both as `Stored`, one at a time: neither may hold a whole model in memory.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.errors import Problem
from lensmith.interfaces.specs import TunerSpec
from lensmith_registry import PartSpec

if TYPE_CHECKING:
    from torch import Tensor

    from lensmith.conversion.foreign import Foreign
    from lensmith.conversion.held import Held
    from lensmith.conversion.probes import Probe
    from lensmith.conversion.stored import Stored
    from lensmith.model import MultimodalModel
    from lensmith.spec.run import ModelSpec


class ImporterSpec(PartSpec, abc.ABC):
    """Spec of an importer: what a checkpoint's files leave open (`lensmith import SOURCE KEY=VALUE`)."""

    @classmethod
    def migrated(cls, arguments: Mapping[str, Any], gpus: int) -> Mapping[str, Any] | None:
        """What the arguments of the project's own trainer ask for, for `lensmith migrate`. Imports no torch.

        Args:
            arguments: by name, without dashes.
            gpus: that share a step.

        Returns:
            `spec`, as a file would hold it; `used`, the names that it says; `notes`, what was assumed. None where the
            arguments are not of this project.

        Raises:
            LensmithError: they ask for what Lensmith does not have.
        """
        return None


class ExporterSpec(PartSpec, abc.ABC):
    """Spec of an exporter: what may be chosen of its files (`lensmith export ARTIFACT --to NAME KEY=VALUE`)."""

    def refusals(self, model: ModelSpec, tuner: TunerSpec | None, *, merge: bool | None) -> Sequence[Problem]:
        """Everything of a model that the format cannot express, by its path in a spec, with the cure.

        Told from the specs and the config files they name, before a weight is read. Imports no torch.

        Args:
            model: the parts.
            tuner: what the last stage trained with, or None.
            merge: whether adapters are folded into the weights first; None: they will be where the format needs it.
        """
        return ()


@dataclass(frozen=True)
class PartFiles:
    """What an artifact holds of one part.

    Args:
        tensors: by the part's own names; in a folder as `save_pretrained` writes it for a large part, one file else.
        configs: JSON files beside them, by name.
        copies: files that are copied as they are, by name.
    """

    tensors: Mapping[str, Stored] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    copies: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What an importer found.

    Args:
        model: the `model` section of a spec, part by part. A large part that is also in `parts` is read from there.
        parts: what the artifact holds, by part name; `adapter` for adapters in PEFT's format.
        tuner: the tuner that made the adapters, as a spec writes it, or None.
        notes: what the user should know: what was found, what was assumed and which option says otherwise.
        bases: where a part that the artifact holds came from before, for formats that name it (`Held.base`).
    """

    model: Mapping[str, Any]
    parts: Mapping[str, PartFiles]
    tuner: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    bases: Mapping[str, str] = field(default_factory=dict)


class Importer(abc.ABC):
    """Reads one format. Made from its spec for one checkpoint."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    @classmethod
    @abc.abstractmethod
    def recognise(cls, source: Foreign) -> str:
        """What a checkpoint is, e.g. `an original LLaVA checkpoint`; empty where it is none of this format.

        Decided by what the files hold (configs, names of tensors), never by what they or their folder are called,
        except for names that the format itself fixes.
        """

    @abc.abstractmethod
    def read(self, source: Foreign) -> Found:
        """Say what every tensor is.

        Raises:
            LensmithError: something that Lensmith cannot express, or that is left open; names the option.
        """


class Exporter(abc.ABC):
    """Writes one format. Made from its spec for one artifact, which `ExporterSpec.refusals` has passed.

    The order of calls: `write`, then `logits` for every probe; the files appear only where these agree.
    """

    pixels: float = 0.0
    """Largest difference of a pixel that `logits` found between the files' own processor and the artifact, in grey
    levels."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def as_written(self, model: MultimodalModel) -> MultimodalModel:
        """The artifact's model, changed to what the format does otherwise and `write` has named; by default as it is.

        Args:
            model: loaded for the comparison alone.
        """
        return model

    @abc.abstractmethod
    def write(self, held: Held, folder: Path) -> Sequence[str]:
        """Fill an empty folder.

        Returns:
            What the user should know, one line each.

        Raises:
            LensmithError: weights that the format cannot hold.
        """

    @abc.abstractmethod
    def logits(self, held: Held, folder: Path, probes: Sequence[Probe]) -> list[Tensor]:
        """Read the files back, as far as possible with the software that they are for, and answer the probes.

        Args:
            held: the artifact; its weights may not be used where the files hold them.
            folder: what `write` filled.
            probes: prompts with and without a picture, laid out by the artifact's own model.

        Returns:
            Logits (positions, vocabulary or more) of each probe, fp32 on the CPU.

        Raises:
            LensmithError: the files say something else than the artifact, e.g. a processor that makes other ids.
        """
