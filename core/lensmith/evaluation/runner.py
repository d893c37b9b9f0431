"""`lensmith eval`: ask a model a benchmark's questions, go on where a run stopped, score when all are answered."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lensmith.errors import DataError, LensmithError, OutputError
from lensmith.evaluation.answering import Answered, Answerer, Asked
from lensmith.evaluation.answers import Answers, claim, fingerprint, read_answers
from lensmith.evaluation.files import named
from lensmith.evaluation.progress import Counter
from lensmith.evaluation.report import write_report
from lensmith.evaluation.suite import Task
from lensmith.evaluation.summary import RESAMPLES, sample_rows, summary
from lensmith.files import write_bytes, write_json, write_text, writing
from lensmith.interfaces.benchmark import Benchmark, Item, Judge, Predictions, Scores

PREDICTIONS = "predictions.jsonl"
SUMMARY = "summary.json"
_PIECES = 4
"""Batches between two writes: what a kill loses at most, and what may share its computation."""


@dataclass
class Job:
    """One benchmark of a run.

    Args:
        name: of the benchmark.
        benchmark: made from its options.
        data: its official files.
        items: its questions.
        folder: where everything about it is written.
        whole: how many questions there are without a limit.
    """

    name: str
    benchmark: Benchmark
    data: Path
    items: list[Item]
    folder: Path
    whole: int = 0

    @property
    def partial(self) -> bool:
        """Whether a limit leaves questions out."""
        return len(self.items) < self.whole

    @property
    def title(self) -> str:
        """Name in tables and messages: its folder's."""
        return self.folder.name

    def open(self, settings: Mapping[str, Any]) -> None:
        """Make the folder this run's, or find that it is.

        Raises:
            LensmithError: it is another run's.
        """
        told = {
            "benchmark": self.name,
            "questions": len(self.items),
            "questions_sha256": fingerprint(self.items),
            "max_new_tokens": self.benchmark.max_new_tokens,
        }
        claim(self.folder, {**told, **settings}, {"options": self.benchmark.spec.model_dump(mode="json")})

    def pending(self, shard: tuple[int, int]) -> list[int]:
        """Numbers of the shard's questions that nobody has answered."""
        answered = read_answers(self.folder)
        return [number for number in range(shard[0], len(self.items), shard[1]) if number not in answered]

    def complete(self) -> bool:
        """Whether every question of all shards is answered."""
        return len(read_answers(self.folder)) == len(self.items)


def jobs(tasks: Sequence[Task], output: Path) -> list[Job]:
    """Read the questions of some benchmarks, so that what is missing is known before a model is loaded.

    Args:
        tasks: what is asked. Data that is a folder with a folder of the benchmark's name means that one.
        output: a folder; each benchmark gets one of its title in it.

    Raises:
        DataError: files or pictures that are missing.
    """
    found = []
    for task in tasks:
        data = task.data / task.name if (task.data / task.name).is_dir() else task.data
        items = task.benchmark.items(data, task.images or (data if data.is_dir() else data.parent))
        if not items:
            raise DataError(f"{data}: {task.name} has no questions there")
        found.append(Job(task.name, task.benchmark, data, items[: task.limit], output / task.title, len(items)))
    return found


def answer(
    job: Job,
    answerer: Answerer,
    *,
    shard: tuple[int, int] = (0, 1),
    batch_size: int = 8,
    model_id: str = "",
    keep_going: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Ask the shard's questions that are still open, writing as answers come.

    Args:
        job: what to ask; its folder is open.
        answerer: replies.
        shard: number and count; of n shards, this one has every n-th question.
        batch_size: questions that are answered together.
        model_id: named in the predictions.
        keep_going: note what cannot be asked as an empty answer with its reason, instead of stopping.
        say: called with messages for the user.

    Raises:
        DataError: a question that cannot be asked; names it.
    """
    mine = len(range(shard[0], len(job.items), shard[1]))
    with Answers(job.folder, shard) as answers:
        pending = job.pending(shard)
        name = job.title if shard[1] == 1 else f"{job.title} {shard[0]}/{shard[1]}"
        with Counter(name, mine, mine - len(pending)) as counter:
            for start in range(0, len(pending), batch_size * _PIECES):
                numbers = pending[start : start + batch_size * _PIECES]
                asked = [_asked(job, job.items[number]) for number in numbers]
                replies = _replies(job, numbers, asked, answerer, keep_going=keep_going, say=say)
                lines = [_line(job, n, reply, model_id) for n, reply in zip(numbers, replies, strict=True)]
                answers.write(lines)
                counter.set(counter.done + len(numbers))


def _replies(
    job: Job,
    numbers: Sequence[int],
    asked: Sequence[Asked],
    answerer: Answerer,
    *,
    keep_going: bool,
    say: Callable[[str], None],
) -> list[Answered]:
    """Replies to a piece; where one question cannot be asked, one by one, to find it."""
    try:
        return answerer(asked, job.benchmark.max_new_tokens)
    except DataError:
        replies = []
        for number, question in zip(numbers, asked, strict=True):
            try:
                replies += answerer([question], job.benchmark.max_new_tokens)
            except DataError as error:
                told = f"{job.title}, question {job.items[number].question_id}: {error}"
                if not keep_going:
                    raise DataError(f"{told} (--keep-going counts it as an empty answer)") from error
                say(f"warning: {told}")
                replies.append(Answered("", {"error": str(error)}))
        return replies


def _asked(job: Job, item: Item) -> Asked:
    images = tuple(_files(job, item))
    return Asked(item.prompt, images, item.choices, item.fallbacks, item.candidates, item.per_token)


def _files(job: Job, item: Item) -> list[Path]:
    """Files of a question's pictures; those that come as bytes are written once, by their content's hash."""
    found = []
    for image in item.images:
        if isinstance(image, bytes):
            path = job.folder / "pictures" / hashlib.sha256(image).hexdigest()[:32]
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                write_bytes(path, image)
            found.append(path)
        else:
            found.append(image)
    return found


def _line(job: Job, number: int, reply: Answered, model_id: str) -> dict[str, Any]:
    item = job.items[number]
    line = {"question_id": item.question_id, "prompt": item.prompt, "text": reply.text, **item.extra, **reply.data}
    return line | {"answer_id": uuid.uuid4().hex[:22], "model_id": model_id, "metadata": {}, "item": number}


def write_predictions(job: Job) -> Path:
    """Gather all shards' answers in the order of the questions, as LLaVA's answer lines.

    Raises:
        LensmithError: questions are still open.
    """
    answers = read_answers(job.folder)
    if left := len(job.items) - len(answers):
        raise LensmithError(f"{job.title}: {left} of {len(job.items)} questions are not answered yet")
    path = job.folder / PREDICTIONS
    rows = (json.dumps(answers[number], ensure_ascii=False) + "\n" for number in range(len(job.items)))
    write_text(path, "".join(rows))
    return path


def finish(
    job: Job,
    judge_of: Callable[[Job], Judge | None],
    *,
    artifact: str,
    resamples: int = RESAMPLES,
    report_samples: int = 300,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Score an answered benchmark and write everything about it.

    Args:
        job: all of whose questions are answered.
        judge_of: the judge of a judged benchmark; None leaves it without a score. It is not asked about a part of the
            questions.
        artifact: what answered, for the report.
        resamples: of the bootstrap.
        report_samples: answers that the page shows.
        say: called with messages for the user.

    Returns:
        The summary; its `score` is None where there is no judge or the data cannot be scored here (a test split), and
        `unscored` says why.

    Raises:
        LensmithError: the judge failed, or a library is missing; nothing is written, and another call goes on.
    """
    predictions = replace(job.benchmark.read([write_predictions(job)]), partial=job.partial)
    submission = [] if job.partial else _submission(job, predictions, say)
    failed = [line["question_id"] for line in read_answers(job.folder).values() if line.get("error")]
    told: dict[str, Any]
    scores: Scores | None = None
    alone = False
    try:
        if job.partial and job.benchmark.judged:
            raise DataError(
                f"{len(job.items)} of {job.whole} questions were asked, and judges mark whole benchmarks only"
            )
        judge = judge_of(job) if job.benchmark.judged else None
        alone = job.benchmark.judged and judge is None
        scores = job.benchmark.score(predictions, job.data, judge)
        told = summary(job.name, job.benchmark, scores, resamples=resamples)
        told["notes"][:0] = predictions.notes
        if job.partial:
            told["notes"].append(f"asked the first {len(job.items)} of {job.whole} questions, and nothing else counts")
        if failed:
            told["notes"].append(
                f"{len(failed)} questions could not be asked; their answers are empty: {named(failed)}"
            )
    except LensmithError as error:
        if not (isinstance(error, DataError) or alone):
            raise
        told = {"benchmark": job.name, "score": None, "unscored": str(error), "samples": len(job.items), "notes": []}
        say(f"{job.title}: not scored: {error}")
    told |= {"title": job.title, "artifact": artifact, "submission": submission, "not_asked": failed}
    if scores is not None:
        rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in sample_rows(scores))
        write_text(job.folder / "samples.jsonl", "".join(rows))
        pictures = {str(item.question_id): _files(job, item) for item in job.items if item.images}
        write_report(
            job.folder / "report.html", told, scores.samples, pictures, artifact=artifact, limit=report_samples
        )
    write_json(job.folder / SUMMARY, told)
    return told


def _submission(job: Job, predictions: Predictions, say: Callable[[str], None]) -> list[str]:
    folder = job.folder / "submission"
    folder.mkdir(exist_ok=True)
    try:
        with writing(folder):
            written = [str(path) for path in job.benchmark.submission(predictions, job.data, folder)]
    except OutputError:
        shutil.rmtree(folder, ignore_errors=True)  # nothing half-written looks like a submission
        raise
    except LensmithError as error:
        written = []
        say(f"warning: {job.title}: no submission file: {error}")
    if not written:
        folder.rmdir()
    return written
