"""MME, as its own calculation reads the files that LLaVA's converter writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensmith import Benchmark, DataError
from lensmith.evaluation.files import PictureFolder, Reader, named, read_text
from lensmith.evaluation.matching import Reading, tell_empty, tell_readings
from lensmith.interfaces.benchmark import Item, Prediction, Predictions, Quantity, SampleScore, Scores
from lensmith_plugins.benchmarks import lenient
from lensmith_plugins.benchmarks.specs import MmeSpec
from lensmith_plugins.benchmarks.texts import SHORT, ask, without

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_TASKS = PERCEPTION + COGNITION
_YES_NO = "Please answer yes or no."
_PREFIX = 4


def yes_or_no(reply: str) -> str:
    """`yes`, `no` or `other`, from the first four characters in lower case."""
    start = reply.lower() if reply.lower() in ("yes", "no") else reply.lower()[:_PREFIX]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


class Mme(Benchmark):
    """MME (Fu et al. 2023, arXiv 2306.13394): accuracy and accuracy of both questions of a picture, in points.

    A prediction's `data` holds `task`, `file`, `question` and `gold` once it is known which question it answers.
    """

    spec: MmeSpec
    suffix = SHORT

    def read(self, files: Sequence[Path]) -> Predictions:
        """LLaVA's answer lines, or the official result folder (a tab-separated file each sub-task)."""
        folder = files[0] if files[0].is_dir() else files[0].parent if files[0].suffix == ".txt" else None
        if folder is None:
            return Reader(described="the folder of MME's result files (existence.txt and 13 more)")(files)
        rows = []
        for task in _TASKS:
            path = folder / f"{task}.txt"
            if not path.is_file():
                raise DataError(f"{path} is not there; MME's result folder has {', '.join(f'{t}.txt' for t in _TASKS)}")
            for number, line in enumerate(read_text(path).split("\n"), 1):
                cells = line.rstrip("\r").split("\t")
                if not line.strip():
                    continue
                if len(cells) != 4:
                    raise DataError(
                        f"{path}:{number}: {len(cells)} cells; a line has picture, question, right answer and reply"
                        " between tabs, and a reply holds neither tab nor line end"
                    )
                known = {"task": task, "file": cells[0], "question": cells[1], "gold": cells[2]}
                rows.append(Prediction(f"{task}/{cells[0]}", cells[3], cells[1], f"{path}:{number}", known))
        return Predictions(rows, "official")

    def items(self, data: Path, images: Path) -> list[Item]:
        """All questions, sub-task by sub-task, two a picture."""
        pictures = PictureFolder(images)
        items = []
        for (task, file, question), gold in _truth(data).items():
            stem = Path(file).stem
            picture = _picture(pictures, task, stem)
            words = question.replace(_YES_NO, "").strip()
            items.append(Item(f"{task}/{picture.name}", ask(words, SHORT), (picture,), gold, task))
        return items

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Points: 100 accuracy + 100 accuracy of both questions for each sub-task; their sums for the two groups."""
        notes: list[str] = []
        official = predictions.form == "official"
        rows = predictions.rows if official else _with_truth(predictions.rows, data)
        by_task: dict[str, list[Prediction]] = {task: [] for task in _TASKS}
        for row in rows:
            by_task[row.data["task"]].append(row)
        if missing := [task for task, found in by_task.items() if not found]:
            raise DataError(f"there are no predictions for {', '.join(missing)}; MME's totals need all 14 sub-tasks")
        if official and _root(data) is None:
            notes.append(
                f"MME's questions are not in {data}, so that nothing says whether all of them are answered"
                f" ({len(rows)} replies; MME has 2374 questions)"
            )
        else:
            _compare(rows, _truth(data), notes)
        self._tell_unread(rows, notes)
        samples, metrics = [], {"perception": {"total": 0.0}, "cognition": {"total": 0.0}}
        units: dict[str, list[list[float]]] = {"perception": [], "cognition": []}
        strata: dict[str, list[int]] = {"perception": [], "cognition": []}
        for task, found in by_task.items():
            group = "perception" if task in PERCEPTION else "cognition"
            pairs = self._pairs(task, found)
            strangers = sum(len({row.data["file"] for row in pair}) > 1 for pair in pairs)
            if strangers:
                notes.append(
                    f"{task}: {strangers} of {len(pairs)} consecutive pairs are of two pictures; they count as one, as"
                    " in the official tool (`pairing=picture` pairs by picture)"
                )
            right = [[self._right(row) for row in pair] for pair in pairs]
            both = [float(all(pair)) for pair in right]
            points = 100 * sum(map(sum, right)) / len(found) + 100 * sum(both) / len(pairs)
            metrics[group][task] = points
            metrics[group]["total"] += points
            names = PERCEPTION if group == "perception" else COGNITION
            for pair, double in zip(right, both, strict=True):
                unit = [0.0] * (3 * len(names))
                place = 3 * names.index(task)
                unit[place : place + 3] = [sum(pair) / len(pair), double, 1.0]
                units[group].append(unit)
                strata[group].append(place)
            samples += [
                SampleScore(
                    row.question_id,
                    self._right(row),
                    row.text,
                    self._read(row.text),
                    row.data["gold"],
                    without(row.data["question"]),
                    task,
                )
                for row in found
            ]
        most = {"perception": 200.0 * len(PERCEPTION), "cognition": 200.0 * len(COGNITION)}
        quantities = [
            Quantity(f"{group}.total", found, _points, strata[group], (0.0, most[group]))
            for group, found in units.items()
        ]
        return Scores("perception.total", metrics, samples, quantities, notes, full_marks=200.0 * len(PERCEPTION))

    def _read(self, reply: str) -> str:
        return yes_or_no(reply) if self.spec.reading == "paper" else lenient.yes_or_no(reply) or "other"

    def _right(self, row: Prediction) -> float:
        return float(self._read(row.text) == row.data["gold"].strip().lower())

    def _tell_unread(self, rows: Sequence[Prediction], notes: list[str]) -> None:
        tell_empty(rows, notes)
        readings = []
        for row in rows:
            told = yes_or_no(row.text)
            strict = "" if told == "other" else told
            readings.append(Reading(row.question_id, row.text, strict, lenient.yes_or_no(row.text)))
        tell_readings(
            readings,
            notes,
            what="yes or no",
            fate="as the first four letters have it",
            lenient=self.spec.reading == "lenient",
        )

    def _pairs(self, task: str, rows: Sequence[Prediction]) -> list[list[Prediction]]:
        if self.spec.pairing == "order":
            if len(rows) % 2:
                raise DataError(
                    f"{task}: {len(rows)} replies, an odd number; MME asks two questions about each picture"
                )
            return [list(rows[start : start + 2]) for start in range(0, len(rows), 2)]
        by_file: dict[str, list[Prediction]] = {}
        for row in rows:
            by_file.setdefault(row.data["file"], []).append(row)
        odd = [file for file, pair in by_file.items() if len(pair) != 2]
        if odd:
            raise DataError(f"{task}: {len(odd)} pictures have not two replies: {named(odd)}")
        return list(by_file.values())

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """The official result folder; line ends and tabs in replies become spaces."""
        rows = predictions.rows if predictions.form == "official" else _with_truth(predictions.rows, data)
        target = folder / "mme_results"
        target.mkdir(exist_ok=True)
        files = []
        for task in _TASKS:
            lines = [
                "\t".join([r.data["file"], r.data["question"], r.data["gold"], " ".join(r.text.splitlines())])
                for r in rows
                if r.data["task"] == task
            ]
            files.append(target / f"{task}.txt")
            files[-1].write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return files


def _points(*sums: Any) -> Any:
    """Points of a group from, for each sub-task, sums of accuracy, of both right, and of pairs."""
    return sum(100 * (sums[at] + sums[at + 1]) / sums[at + 2] for at in range(0, len(sums), 3))


def _truth(data: Path) -> dict[tuple[str, str, str], str]:
    """Right answers by sub-task, text file and question, in the order of the files.

    Raises:
        DataError: the folder is not MME's, or a line is not a question and an answer.
    """
    root = _root(data)
    if root is None:
        raise DataError(f"{data}: there is no MME_Benchmark_release_version (folders {', '.join(_TASKS[:3])}, …) in it")
    truth = {}
    for task in _TASKS:
        texts = root / task / "questions_answers_YN"
        for path in sorted((texts if texts.is_dir() else root / task).glob("*.txt")):
            for number, line in enumerate(read_text(path).split("\n"), 1):
                if not line.strip():
                    continue
                question, tab, answer = line.rstrip("\r").partition("\t")
                if not tab:
                    raise DataError(f"{path}:{number}: no tab between question and answer")
                if answer.strip().lower() not in ("yes", "no"):
                    raise DataError(f"{path}:{number}: the answer is {answer!r:.40}, which is Yes or No in MME")
                truth[task, path.name, question] = answer
    if not truth:
        raise DataError(f"{root}: no questions of MME in its folders")
    return truth


def _root(data: Path) -> Path | None:
    """The folder of the sub-tasks' folders."""
    return next((path.parent for path in [data / _TASKS[0], *sorted(data.rglob(_TASKS[0]))] if path.is_dir()), None)


def _compare(rows: Sequence[Prediction], truth: Mapping[tuple[str, str, str], str], notes: list[str]) -> None:
    """Refuse replies that leave questions out, and note those that answer one twice.

    Raises:
        DataError: a question without a reply, or, in official result files, one that MME does not ask or whose right
            answer is another.
    """
    told: Counter[tuple[str, str, str]] = Counter()
    # A result file may name the picture where the questions have the text's name, and space words in another way.
    gold = {(task, Path(file).stem, " ".join(words.split())): answer for (task, file, words), answer in truth.items()}
    for row in rows:
        key = (row.data["task"], Path(row.data["file"]).stem, " ".join(row.data["question"].split()))
        if key not in gold:
            raise DataError(f"{row.place}: MME asks no {key[2]!r:.80} about {row.data['file']}")
        if gold[key].strip().lower() != row.data["gold"].strip().lower():
            raise DataError(f"{row.place}: the right answer is {gold[key]!r}, not {row.data['gold']!r:.40}")
        told[key] += 1
    if missing := [key for key in gold if not told[key]]:
        pictures = list(dict.fromkeys(f"{task}/{Path(file).stem}" for task, file, _ in missing))
        raise DataError(
            f"{len(missing)} questions about {len(pictures)} pictures have no reply: {named(pictures)}; MME scores"
            " both questions of every picture"
        )
    if twice := [f"{task}/{Path(file).stem}" for (task, file, _), count in told.items() if count > 1]:
        notes.append(f"{len(twice)} questions have several replies, all counted: {named(list(dict.fromkeys(twice)))}")


def _with_truth(rows: Sequence[Prediction], data: Path) -> list[Prediction]:
    """Predictions with the question that they answer.

    Raises:
        DataError: a prediction for a question that MME does not ask, by line.
    """
    truth = _truth(data)
    found = []
    for row in rows:
        task = str(row.question_id).split("/")[0]
        file = f"{Path(str(row.question_id)).stem}.txt"
        words = row.prompt.replace(SHORT, "").strip()
        asked = words if _YES_NO in words else f"{words} {_YES_NO}"
        if (task, file, asked) not in truth:
            asked = asked.replace(f" {_YES_NO}", f"  {_YES_NO}")
        if (task, file, asked) not in truth:
            raise DataError(f"{row.place}: MME asks no {words!r} about {row.question_id}")
        known: Mapping[str, Any] = {"task": task, "file": file, "question": asked, "gold": truth[task, file, asked]}
        found.append(Prediction(row.question_id, row.text, row.prompt, row.place, known))
    return found


def _picture(pictures: PictureFolder, task: str, stem: str) -> Path:
    for suffix in (".jpg", ".png"):
        for place in (f"{task}/images/{stem}{suffix}", f"{task}/{stem}{suffix}"):
            direct = pictures.folder / place
            nested = pictures.folder / "MME_Benchmark_release_version" / place
            for path in (direct, nested):
                if path.is_file():
                    return path
    return pictures(f"{task}/{stem}.jpg")
