"""Captions against reference captions: BLEU, ROUGE-L and CIDEr of COCO's evaluation code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensmith import Benchmark, DataError, LensmithError
from lensmith.evaluation.files import (
    Line,
    PictureFolder,
    Reader,
    find,
    keyed,
    named,
    read_records,
    require,
)
from lensmith.evaluation.matching import by_question
from lensmith.evaluation.statistics import mean
from lensmith.interfaces.benchmark import Item, Prediction, Predictions, SampleScore, Scores
from lensmith_plugins.benchmarks.specs import CaptionSpec

_FILES = ("captions*.json", "captions*.jsonl", "*.jsonl", "*.json")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?", re.UNICODE)
_BLEU = 4
_is_result = keyed("image_id", "caption")


def _results(document: Any, lines: Sequence[Line]) -> list[Prediction] | None:
    """COCO's result file: a list of `{image_id, caption}`."""
    if not isinstance(document, list) or not _is_result(lines):
        return None
    rows = []
    for line in lines:
        value = require(line, {"image_id": (int, str), "caption": str}, "a caption")
        rows.append(Prediction(value["image_id"], value["caption"], place=line.place, data=value))
    return rows


class Caption(Benchmark):
    """BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004) and CIDEr-D (Vedantam et al. 2015), as in COCO's caption task.

    Words are runs of letters and digits in lower case, without punctuation; COCO's own tool cuts words with a Java
    program, whose result differs for abbreviations and the like.
    """

    spec: CaptionSpec
    read = Reader({"results": _results}, described="COCO's results [{image_id, caption}, …]")

    def items(self, data: Path, images: Path) -> list[Item]:
        """One question a picture."""
        pictures = PictureFolder(images)
        return [
            Item(identity, self.spec.prompt, (pictures(row["image"]),), row["captions"][0])
            for identity, row in _references(data, []).items()
        ]

    def score(self, predictions: Predictions, data: Path, judge: Any = None) -> Scores:
        """Values times 100; CIDEr's interval holds the weights of words fixed.

        Raises:
            LensmithError: the library is not installed.
        """
        try:
            from pycocoevalcap.bleu.bleu_scorer import BleuScorer
            from pycocoevalcap.cider.cider_scorer import CiderScorer
            from pycocoevalcap.rouge.rouge import Rouge
        except ImportError as error:
            raise LensmithError(
                f"captions are scored with pycocoevalcap: pip install 'lensmith[eval]' ({error})"
            ) from error
        notes: list[str] = []
        references = _references(data, notes)
        given = by_question(predictions.rows, references, notes, what="captions")
        if predictions.partial:
            references = {identity: row for identity, row in references.items() if identity in given}
        if missing := [identity for identity in references if identity not in given]:
            notes.append(f"{len(missing)} pictures without a caption, scored as empty captions: {named(missing)}")
        bleu, cider, rouge = BleuScorer(n=_BLEU), CiderScorer(n=_BLEU), []
        for identity, row in references.items():
            told = " ".join(words(given[identity].text)) if identity in given else ""
            truths = [" ".join(words(caption)) for caption in row["captions"]]
            bleu += (told, truths)
            cider += (told, truths)
            rouge.append(float(Rouge().calc_score([told], truths)) if told else 0.0)
        bleus, _ = bleu.compute_score(option="closest", verbose=0)
        _, each = cider.compute_score()
        ciders = [float(value) for value in each]
        metrics: dict[str, Any] = {f"bleu_{n}": 100 * float(value) for n, value in enumerate(bleus, 1)}
        metrics |= {"rouge_l": _percent(rouge), "cider": _percent(ciders), "pictures": len(references)}
        samples = [
            SampleScore(
                identity,
                value,
                given[identity].text if identity in given else "",
                f"ROUGE-L {overlap:.2f}, CIDEr {value:.2f}",
                " | ".join(row["captions"]),
                self.spec.prompt,
            )
            for (identity, row), value, overlap in zip(references.items(), ciders, rouge, strict=True)
        ]
        return Scores("cider", metrics, samples, [mean("cider", ciders, bounded=False), mean("rouge_l", rouge)], notes)

    def submission(self, predictions: Predictions, data: Path, folder: Path) -> list[Path]:
        """COCO's result file."""
        rows = [{"image_id": row.question_id, "caption": row.text} for row in predictions.rows]
        path = folder / "captions_results.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        return [path]


def words(text: str) -> list[str]:
    """Words of a caption."""
    return _WORD.findall(text.lower())


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


def _references(data: Path, notes: list[str]) -> dict[Any, dict[str, Any]]:
    """Picture and captions by id, from rows `{id, image, captions}` or COCO's `{images, annotations}`.

    Several rows of one picture, as in files with a row for each caption, are one question with all their captions.

    Raises:
        DataError: a row without captions, or two pictures with one id; by line.
    """
    path = find(data, "the reference captions", *_FILES)
    document, lines = read_records(path)
    if isinstance(document, dict) and {"images", "annotations"} <= document.keys():
        return _coco(document, path)
    found: dict[Any, dict[str, Any]] = {}
    texts_of: dict[str, Any] = {}
    again: list[Any] = []
    for line in lines:
        value: Mapping[str, Any] = require(line, {}, "a row")
        identity = value.get("id", value.get("image"))
        captions = value.get("captions") or value.get("caption")
        captions = [captions] if isinstance(captions, str) else captions
        texts = isinstance(captions, list) and captions and all(isinstance(caption, str) for caption in captions)
        if isinstance(identity, bool) or not isinstance(identity, (str, int)) or not texts:
            raise DataError(
                f"{line.place}: a row is {{id, image, captions: [text, …]}}, with an id that is text or a number; this"
                f" has {', '.join(f'{key}: {told!r:.40}' for key, told in value.items())}"
            )
        image = value.get("image", str(identity))
        if not isinstance(image, str):
            raise DataError(f"{line.place}: 'image' is {image!r:.40}, not the name of a picture")
        identity = texts_of.setdefault(str(identity), identity)
        row = found.setdefault(identity, {"image": image, "captions": []})
        if row["image"] != image:
            raise DataError(
                f"{line.place}: the id {identity!r} comes a second time, of another picture ({image}; before"
                f" {row['image']})"
            )
        again += [identity] if row["captions"] else []
        row["captions"] += captions
    if again:
        pictures = list(dict.fromkeys(again))
        notes.append(f"{len(again)} further rows of {len(pictures)} pictures: all their captions count")
    return found


def _coco(document: Mapping[str, Any], path: Path) -> dict[Any, dict[str, Any]]:
    """The pictures of COCO's annotations that have captions."""
    require(Line(document, str(path)), {"images": list, "annotations": list}, "COCO's captions file")
    found: dict[Any, dict[str, Any]] = {}
    for number, image in enumerate(document["images"], 1):
        keys = {"id": (int, str), "file_name": str}
        value = require(Line(image, f"{path}, image {number}"), keys, "a picture of COCO")
        if found.get(value["id"], {"image": value["file_name"]})["image"] != value["file_name"]:
            raise DataError(f"{path}, image {number}: the id {value['id']!r} comes a second time, of another picture")
        found[value["id"]] = {"image": value["file_name"], "captions": []}
    for number, annotation in enumerate(document["annotations"], 1):
        line = Line(annotation, f"{path}, annotation {number}")
        value = require(line, {"image_id": (int, str), "caption": str}, "a caption of COCO")
        if value["image_id"] not in found:
            raise DataError(f"{line.place}: its picture {value['image_id']!r} is not among the `images`")
        found[value["image_id"]]["captions"].append(value["caption"])
    return {identity: row for identity, row in found.items() if row["captions"]}
