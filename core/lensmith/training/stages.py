"""Run the stages of a spec, each from the artifact before it to its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lensmith import artifacts, files, parts
from lensmith.artifacts import MANIFEST, Manifest, Provenance
from lensmith.data.fitting import readiness
from lensmith.data.order import steps_of
from lensmith.data.reader import RowReader
from lensmith.data.sources import Mixture
from lensmith.dims import LARGE_PARTS, SMALL_PARTS, join, untrained_rows
from lensmith.errors import ArtifactError, DataError, Interrupted, TrainingError
from lensmith.fused import fits
from lensmith.loading import restore
from lensmith.spec.run import RunSpec, StageSpec
from lensmith.tensors import told_names
from lensmith.training import checkpoint, distributed, launch, loop, schedule
from lensmith.training.alone import alone
from lensmith.training.changes import SourceWatch
from lensmith.training.divergence import Diverged, cure, require_finite
from lensmith.training.engine import Engine, precision_of
from lensmith.training.feed import Feed, Split
from lensmith.training.hardware import accelerator, require_hardware, set_tf32
from lensmith.training.identity import GOES_ON, as_now, different_parts, identity, may_change
from lensmith.training.loggers import open_log, prepare
from lensmith.training.memory import OutOfMemory, advice, is_out_of_memory, told
from lensmith.training.optimizer import build_optimizer
from lensmith.training.progress import Display
from lensmith.training.stopping import StopRequest
from lensmith_registry import Kind

if TYPE_CHECKING:
    from lensmith.features.folders import Lock
    from lensmith.interfaces.tuner import Tuner
    from lensmith.model import MultimodalModel


@dataclass(frozen=True)
class Options:
    """What a command adds to a spec.

    Args:
        output: folder of the run.
        resume: go on with what the folder holds.
        only: run this stage alone (the ones before it must be there).
    """

    output: Path
    resume: bool = False
    only: str | None = None


def run_stages(spec: RunSpec, options: Options) -> list[Path]:
    """Train every stage; returns their artifacts.

    Raises:
        TrainingError: nothing to resume, something there already, a stage that is not in the spec.
        LensmithError: everything else that a user can cause.
    """
    if not spec.stages:
        raise TrainingError("the spec has no stages; add `stages:` to train")
    if options.only is not None:
        parts.stage_of(spec, options.only)
    launch.end_with_launcher()
    distributed.start()
    with alone(options.output):
        prepare(spec.logging)
        return _run(spec, options)


def _run(spec: RunSpec, options: Options) -> list[Path]:
    _check_folder(spec, options)
    previous = spec.start_from
    made = []
    for name, stage in spec.stages.items():
        artifact = options.output / name
        if artifact.exists() and (options.resume or (options.only is not None and name != options.only)):
            _check_finished(artifact, spec, name, stage)
            _check_beginning(artifact, previous)
        elif options.only is None or name == options.only:
            stopped = _train(_Stage(spec, name, stage, previous, options), artifact)
            last = name in (options.only, list(spec.stages)[-1])
            if stopped and not last:
                raise _interrupted(stopped, f"after stage {name!r}, whose artifact is {artifact}")
        else:
            raise TrainingError(f"{artifact} is not there; run stage {name!r} before {options.only!r}")
        made.append(artifact)
        previous = artifact
        if name == options.only:
            break
    return made


def _train(stage: _Stage, artifact: Path) -> int:
    """`_Stage.run`, whose memory may not suffice before the first step, either."""
    try:
        return stage.run(artifact)
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        said, cures = told(error), advice(stage.name, stage.stage, stage.split)
        raise TrainingError(
            f"stage {stage.name!r}: no memory for the model and its optimiser ({said}); {cures}"
        ) from None


def _check_finished(artifact: Path, spec: RunSpec, name: str, stage: StageSpec) -> None:
    """Refuse a finished stage of another spec.

    Raises:
        ArtifactError: naming what differs; of more steps, how they are had.
    """
    free = [*may_change(stage), *GOES_ON]
    changed = checkpoint.check_same(artifact, identity(spec, name, stage), as_now, free)
    said = [f"{field} was {then!r}, is {now!r}" for field, (then, now) in changed.items() if field in GOES_ON]
    if longer := "; ".join(said):
        cure = f"go on from its weights with start_from: {artifact} and another --output"
        if checkpoint.begun(artifact.parent, name):
            cure = f"delete {artifact}, and --resume goes on from its last checkpoint"
        raise ArtifactError(f"{artifact} is finished, and the spec asks for another length ({longer}); {cure}")


def _check_beginning(artifact: Path, previous: Path | None) -> None:
    """Refuse a finished stage that was trained from another artifact than the one that is before it now.

    Raises:
        TrainingError: naming both.
    """
    if previous is None or not (previous / MANIFEST).is_file():
        return
    began = Manifest.read(artifact).data.get("starts_from")
    if began and began != files.sha256(previous / MANIFEST):
        raise TrainingError(
            f"{artifact} was not trained from the {previous} that is there now; delete it to train it again, or restore"
            " what it began from"
        )


def _check_folder(spec: RunSpec, options: Options) -> None:
    concerned = [n for n in spec.stages if options.only in (None, n)]
    done = [n for n in concerned if (options.output / n).exists()]
    begun = [n for n in concerned if checkpoint.begun(options.output, n)]
    if (options.output / MANIFEST).is_file():
        raise TrainingError(f"{options.output} is an artifact, and a run is a folder of them; choose another --output")
    if options.resume and not (done or begun) and (others := _held(options.output) - set(spec.stages)):
        raise TrainingError(
            f"{options.output} is of another run: it holds {', '.join(sorted(others))}, and this spec has"
            f" {', '.join(spec.stages)}; give this run's own --output"
        )
    if options.resume and not (done or begun):
        raise TrainingError(
            f"there is nothing to resume in {options.output}: no finished stage and no checkpoint"
            " (set stages.NAME.checkpoints.every to have some); start without --resume"
        )
    if not options.resume and (done or begun):
        raise TrainingError(
            f"{options.output} already holds {', '.join(sorted({*done, *begun}))}; go on with --resume, choose another"
            " --output, or delete it"
        )


def _held(output: Path) -> set[str]:
    """Stages that a run's folder holds, finished or begun."""
    finished = {file.parent.name for file in output.glob(f"*/{MANIFEST}")}
    return finished | {folder.name for folder in (output / "checkpoints").glob("*") if folder.is_dir()}


def _interrupted(number: int, where: str) -> Interrupted:
    name = signal.Signals(number).name
    message = f"stopped by {name} {where}; go on with --resume" if distributed.rank() == 0 else ""
    return Interrupted(message, number)


def _why_padded(stage: StageSpec, model: MultimodalModel) -> str | None:
    """Why the rows of a micro-batch are padded; None where they are packed."""
    if stage.batch.packing == "off":
        return "batch.packing is off"
    if stage.batch.packing == "on":
        return None
    return model.language_model.packing_obstacle() or None


class _Stage:
    """One stage from start to artifact."""

    def __init__(self, spec: RunSpec, name: str, stage: StageSpec, previous: Path | None, options: Options) -> None:
        self.spec, self.name, self.stage, self.previous, self.options = spec, name, stage, previous, options
        self.main = distributed.rank() == 0
        self.notes: list[str] = []
        self.split = Split.of(stage, distributed.rank(), distributed.world())
        # Its manifest has the hashes of all that the stage starts from.
        self.beginning = files.sha256(previous / MANIFEST) if previous and (previous / MANIFEST).is_file() else None

    def run(self, artifact: Path) -> int:
        """Train and publish; returns the signal that came too late to stop this stage, 0 where none did.

        Raises:
            Interrupted: a signal stopped the stage, after a checkpoint.
        """
        require_hardware(self.name, self.stage)
        found = self.found()
        reader = self.reader()  # rows are checked before weights are loaded
        steps = steps_of(self.stage, reader.mixture, self.split.accumulation)
        schedule.require_rates(f"stages.{self.name}", self.stage, steps)
        start = 0 if found is None else checkpoint.step_of(found)
        if start > steps:
            raise TrainingError(
                f"{found} has {start} steps already, stages.{self.name} asks for {steps}; raise epochs or max_steps,"
                " or start anew with another output"
            )
        if found is not None:
            checkpoint.check_data(found, self.sources)
        torch.manual_seed(self.stage.seed)
        set_tf32(self.stage.tf32)
        tuner: Tuner = parts.implementation(Kind.TUNER, self.stage.tuner)(self.stage.tuner)
        model = self.model(tuner, reader)
        optimizer = build_optimizer(model, tuner.groups(model), self.stage)
        self.announce(model, reader, steps)
        feed = Feed(reader, self.stage, self.split, steps, packs=self.pads_because is None, lengths=self.lengths(model))
        features = self.features(model, feed, start)
        engine = Engine(model, optimizer, self.stage, self.split)
        distributed.release_shared_memory()
        # Every rank drew the same fresh weights; dropout must differ between them.
        torch.manual_seed((self.stage.seed + distributed.rank()) % 2**64)
        if found is not None:
            checkpoint.restore(engine, found)

        def write(folder: Path, state: dict[str, torch.Tensor], step: int) -> None:
            provenance = Provenance(
                stage=identity(self.spec, self.name, self.stage),
                data=self.sources,
                step=step,
                steps=steps,
                extra={
                    "order_seed": self.stage.seed,
                    "precision": str(precision_of(self.stage)).split(".")[-1],
                    "starts_from": self.beginning,
                    **(self.watch.record() if self.watch else {}),
                },
            )
            artifacts.write_artifact(folder, model, state, tuner, self.stage.tuner, provenance)

        stop = StopRequest(engine.device, quick=not launch.is_worker())
        done = saved = start

        def after_step(step: int) -> None:
            nonlocal done, saved
            done = step
            if self.watch is not None:
                self.watch.after_step(step, self.stage.batch.size)
            every, keep = self.stage.checkpoints.every, self.stage.checkpoints.keep
            stopped = stop.agreed()
            if step == steps or not (stopped or (every and step % every == 0)):
                return
            target = checkpoint.folder_of(self.options.output, self.name, step)
            checkpoint.save(engine, target, lambda folder, state: write(folder, state, step), keep)
            saved = step
            if stopped:
                raise _interrupted(stopped, f"after step {step} of {steps}; the checkpoint is {target}")

        settings = identity(self.spec, self.name, self.stage)
        with stop:
            with open_log(self.spec.logging, self.options.output, self.name, start, steps, settings) as log:
                try:
                    loop.run(engine, feed, self.stage, start, log, after_step)
                except Diverged as error:
                    # What the run went on from is bad itself where not one step was taken from it.
                    raise self.diverged(error, done + 1 if done > start else start) from error
                except (DataError, OutOfMemory) as error:
                    if distributed.world() == 1 and done > saved and not getattr(error, "moved", False):
                        # Other ranks would be in the middle of a step.
                        engine.forget_gradients()
                        target = checkpoint.folder_of(self.options.output, self.name, done)
                        keep = self.stage.checkpoints.keep
                        with suppress(Diverged):
                            checkpoint.save(engine, target, lambda folder, state: write(folder, state, done), keep)
                            saved = done
                    if isinstance(error, OutOfMemory):
                        raise self.exhausted(error, saved) from None
                    raise
            try:
                require_finite(engine, steps)
            except Diverged as error:
                raise self.diverged(error, steps) from error
            if self.watch is not None:
                self.watch.look(steps)
            self.publish(engine, artifact, lambda folder, state: write(folder, state, steps))
            engine.engine.destroy()
            if features is not None:
                features.release()
            return stop.agreed()

    def exhausted(self, error: OutOfMemory, saved: int) -> TrainingError:
        """The same with what would fit, and from where the run goes on."""
        has = saved or checkpoint.begun(self.options.output, self.name)
        goes_on = f" Steps up to {saved} are saved; go on with --resume and one of these." if has else ""
        return TrainingError(f"stage {self.name!r}: {error}; {advice(self.name, self.stage, self.split)}{goes_on}")

    def diverged(self, error: Diverged, before: int) -> TrainingError:
        """The same with what to do.

        Args:
            error: what is not finite.
            before: checkpoints of fewer steps are good.
        """
        output = self.options.output
        good = checkpoint.last_good(output, self.name, before)
        kept = output / "checkpoints" / self.name if checkpoint.begun(output, self.name) else None
        resumes = any((output / n).exists() for n in self.spec.stages if self.options.only in (None, n))
        told = cure(self.name, self.stage.lr, good, kept, resumes=resumes)
        return TrainingError(f"stage {self.name!r}: {error}; {told}")

    def found(self) -> Path | None:
        """The checkpoint to go on from, of the same run; None to start from the beginning.

        Raises:
            TrainingError: all there are are damaged; one of another number of ranks.
            ArtifactError: one of another spec.
        """
        found = checkpoint.find(self.options.output, self.name) if self.options.resume else None
        if found is None:
            return None
        if self.main:
            for message in found.damaged:
                print(f"{message}; going on from {found.folder.name} instead", file=sys.stderr)
        free = [*may_change(self.stage), *GOES_ON]
        changed = checkpoint.check_same(found.folder, identity(self.spec, self.name, self.stage), as_now, free)
        for field, (then, now) in changed.items() if self.main else ():
            name = field.replace("spec.", f"stages.{self.name}.", 1)
            print(f"going on from {found.folder.name} with {name} {now!r} (it was {then!r})", file=sys.stderr)
        checkpoint.check_world(found.folder)
        if Manifest.read(found.folder).data.get("starts_from") != self.beginning:
            raise TrainingError(
                f"{self.previous} is not the artifact any more that {found.folder} started from; restore that, or start"
                " anew with another output"
            )
        return found.folder

    def publish(self, engine: Engine, artifact: Path, write: Callable[[Path, dict[str, torch.Tensor]], None]) -> None:
        """Write the artifact of the finished stage.

        Raises:
            TrainingError: it could not be written, on all ranks.
        """
        state = engine.gather(artifacts.whole_parts(engine.model))
        failure = ""
        if self.main:
            try:
                with files.atomic_folder(artifact, need=sum(t.nbytes for t in state.values())) as folder:
                    write(folder, state)
            except Exception as error:
                failure = str(error) if isinstance(error, ArtifactError) else f"{type(error).__name__}: {error}"
        if failures := distributed.all_agree(failure):
            raise TrainingError(f"{artifact} could not be written: {'; '.join(failures)}")

    def reader(self) -> RowReader:
        """Open the data and check the text of every row.

        Raises:
            DataError: rows that cannot be used, where the spec says `bad_rows: error`.
        """
        mixture = Mixture(self.stage.data)
        self.sources = artifacts.data_provenance(mixture.sources) if self.main else []
        template = parts.conversation(self.spec.model, self.stage)
        reader = RowReader(mixture, template, parts.tokenizer(self.spec.model), max_length=0)
        dimensions = join(self.spec.model)
        context = dimensions.language_model.context_length
        ready = readiness(reader, dimensions, min(self.stage.data.max_length or context, context))
        if refusal := ready.refusal(self.stage.data.bad_rows):
            raise DataError(f"stage {self.name!r}: {refusal}")
        if ready.bad:
            mixture.drop(ready.bad)
        self.texts = np.delete(ready.texts, ready.bad) if ready.bad else ready.texts
        self.left_out = len(ready.bad)
        self.watch = SourceWatch(reader) if self.main else None
        return reader

    def lengths(self, model: MultimodalModel) -> Sequence[int]:
        """Positions that each row takes, its pictures taken to have the encoder's size."""
        tokens = model.pictures.layout(*model.vision_encoder.shape.image_size).tokens
        positions = self.texts["ids"] + self.texts["images"].astype(np.int64) * tokens
        longest = self.stage.data.max_length or model.language_model.shape.context_length
        return np.minimum(positions, longest).astype(np.int32)  # type: ignore[return-value]

    def model(self, tuner: Tuner, reader: RowReader) -> MultimodalModel:
        """The model of the stage before, or a fresh one, prepared by this stage's tuner."""
        from lensmith.assembly import assemble

        dtype = precision_of(self.stage)
        if self.previous is None:
            model = assemble(
                self.spec.model, dtype=dtype, tuner=tuner, policy=self.stage.data.pictures, seed=self.stage.seed
            )
        else:
            model = self.continued(dtype, tuner)
        model.pictures.policy = self.stage.data.pictures
        reader.tokenizer = model.language_model.tokenizer
        reader.pictures = model.pictures
        context = model.language_model.shape.context_length
        reader.max_length = min(self.stage.data.max_length or context, context)
        tuner.prepare(model)
        self.notes += tuner.notes
        self.recomputed = model.checkpoint_activations() if self.stage.activation_checkpointing else []
        if self.stage.activation_checkpointing and not self.recomputed:
            raise TrainingError(
                f"stages.{self.name}.activation_checkpointing: no part of this model can compute activations again;"
                " set it to false"
            )
        if self.stage.compile and not model.language_model.compile_blocks():
            raise TrainingError(
                f"stages.{self.name}.compile: this language model has no blocks to compile; set it to false"
            )
        self.pads_because = _why_padded(self.stage, model)
        self.check_plan(model)
        return model

    def continued(self, dtype: torch.dtype, tuner: Tuner) -> MultimodalModel:
        """The model of the artifact before; its adapters go on training where this stage's tuner is the same."""
        assert self.previous is not None
        manifest = Manifest.read(self.previous)
        if different := different_parts(manifest.data["model"], self.spec.model):
            raise ArtifactError(
                f"{self.previous} is of another model than this spec's: {', '.join(different)} differ; make them equal"
            )
        differs = self.differing(manifest)
        same = not differs
        if differs and (held := set(manifest.data["weights"]) - {*SMALL_PARTS, *LARGE_PARTS}):
            self.notes.append(
                f"what {manifest.data['tuner']['name']!r} trained in {self.previous} ({', '.join(sorted(held))}) is"
                f" folded into the weights, which this stage's artifact holds in full: {differs}"
            )
        own, following = (tuner, None) if same else (None, tuner)
        model, _ = restore(manifest, dtype=dtype, tuner=own, following=following, merge=not same, trainable=same)
        model.spec = model.spec.model_copy(update={"conversation": self.spec.model.conversation})
        model.conversation = parts.conversation(self.spec.model).bind(model.language_model.tokenizer)
        return model

    def differing(self, manifest: Manifest) -> str:
        """In what an artifact's tuner and this stage's differ, so that adapters cannot go on; empty where they can."""
        stored = manifest.data["tuner"]
        ours = self.stage.tuner
        if stored is None or stored.get("name") != getattr(ours, "name", None):
            return f"this stage's tuner is {getattr(ours, 'name', '')!r}"
        try:
            theirs = type(ours).model_validate(dict(stored)).lasting()
        except ValueError as error:
            raise ArtifactError(
                f"{manifest.folder}: its tuner does not fit the installed {stored['name']!r}: {error}"
            ) from error
        now = ours.lasting()
        changed = [key for key in sorted(theirs | now) if theirs.get(key) != now.get(key)]
        return "; ".join(f"tuner.{key} was {theirs.get(key)!r} and is {now.get(key)!r}" for key in changed)

    def check_plan(self, model: MultimodalModel) -> None:
        """Compare what trains with what the tuner's spec says of the shapes.

        Raises:
            TrainingError: naming what differs.
        """
        self.dimensions = join(model.spec, encoder=model.vision_encoder.shape, language=model.language_model.shape)
        tables = self.dimensions.parameters()
        if not all(tables[part] for part in LARGE_PARTS):
            return
        planned = {p.name for p in self.stage.tuner.trainable(tables)}
        actual = {name for name, p in model.named_parameters() if p.requires_grad}
        if planned != actual:
            raise TrainingError(
                f"the tuner's plan is not what trains: planned only {sorted(planned - actual)[:3]},"
                f" training only {sorted(actual - planned)[:3]}"
            )

    def features(self, model: MultimodalModel, feed: Feed, start: int) -> Lock | None:
        """Encode the pictures of the steps to come, where the spec asks for it (see `lensmith.features`)."""
        if not self.stage.cache.features:
            return None
        from lensmith.features.filling import attach

        display = Display(self.name, 0, 0, enabled=self.main)
        return attach(model, feed.reader, feed.rows(start), self.stage, display.say)

    def announce(self, model: MultimodalModel, reader: RowReader, steps: int) -> None:
        """Say what will happen."""
        if not self.main:
            return
        trained = [(n, p.numel()) for n, p in model.named_parameters() if p.requires_grad]
        per_part: dict[str, int] = {}
        for name, size in trained:
            part = name.split(".")[0]
            per_part[part] = per_part.get(part, 0) + size
        everything = sum(p.numel() for p in model.parameters())
        display = Display(self.name, 0, steps, enabled=True)
        shares = ", ".join(f"{part} {size:,}" for part, size in per_part.items())
        left_out = f", {self.left_out} left out" if self.left_out else ""
        display.say(
            f"stage {self.name}: {len(reader.mixture):,} rows{left_out}, {steps} steps of {self.split.size} rows,"
            f" {precision_of(self.stage)}, ZeRO-{self.stage.deepspeed.zero}, {self.split.world} process(es)"
        )
        display.say(f"  trains {sum(s for _, s in trained):,} of {everything:,} parameters: {shares}")
        packs = "end to end, without padding" if self.pads_because is None else f"padded: {self.pads_because}"
        display.say(f"  rows of a micro-batch lie {packs}")
        sharded = self.stage.deepspeed.zero == 3
        if model.language_model.projection() and fits(accelerator(), precision_of(self.stage)) and not sharded:
            display.say("  the last layer and the loss are one kernel (liger-kernel)")
        for note in self.notes:
            display.say(f"  {note}")
        if told := untrained_rows(model.tables, self.stage.tuner.trainable(model.tables)):
            display.say(f"  {told}")
        if norms := model.moving_statistics():
            display.say(
                f"  batch norms take the statistics of each micro-batch of a process ({told_names(norms)}): losses"
                " depend on batch.micro and on how many processes share a batch"
            )
        if self.recomputed:
            display.say(f"  computes activations again in the backward pass: {', '.join(self.recomputed)}")
