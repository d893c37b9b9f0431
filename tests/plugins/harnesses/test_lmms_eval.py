"""The plugin of lmms-eval: its requests in our words, and the real thing on tasks of local files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lensmith
from lensmith import DataError, GenerationOptions, Turn
from lensmith_plugins.lmms_eval.requests import conversation, generation_settings, pictures

ROOT = Path(__file__).parents[3]
RED = Image.new("RGB", (40, 30), "red")
QUESTION = "What colour is it?"
CHOICES = ["red", "green", "blue"]

TASK = """
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
metadata: [{version: 0.0}]
"""
ANSWERS = """
task: answers
output_type: generate_until
doc_to_target: answer
process_results: !function utils.right
generation_kwargs: {max_new_tokens: 8, do_sample: false, temperature: 0}
metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
"""
LIKELIEST = """
task: likeliest
output_type: multiple_choice
doc_to_choice: [red, green, blue]
doc_to_target: likeliest
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
UTILS = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def right(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_new_tokens": 1024}),
        (
            {"max_new_tokens": 16, "temperature": 0.0, "top_p": 0.9, "num_beams": 1},
            {"max_new_tokens": 16, "top_p": 0.9},
        ),
        ({"temperature": 0.2}, {"max_new_tokens": 1024, "temperature": 0.2}),
        ({"temperature": 0.2, "do_sample": False}, {"max_new_tokens": 1024}),
        ({"do_sample": True, "num_beams": 3}, {"max_new_tokens": 1024, "temperature": 1.0, "beams": 3}),
        ({"until": ["\n\n", "Q:"], "image_aspect_ratio": "pad"}, {"max_new_tokens": 1024, "stop": ("\n\n", "Q:")}),
        ({"until": "###"}, {"max_new_tokens": 1024, "stop": ("###",)}),
    ],
)
def test_their_settings(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert GenerationOptions(**generation_settings(given, obey_until=True)) == GenerationOptions(**expected)


def test_until_can_be_ignored_and_nonsense_is_refused() -> None:
    assert generation_settings({"until": ["\n\n"]}, obey_until=False)["stop"] == ()
    with pytest.raises(DataError, match="max_new_tokens"):
        generation_settings({"max_new_tokens": "many"}, obey_until=True)


def test_messages_become_turns_with_pictures_where_they_stand() -> None:
    images, turns, system = conversation(
        [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "image", "url": RED}, {"type": "text", "text": QUESTION}]},
            {"role": "assistant", "content": "red"},
            {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "image", "url": "b.png"}]},
        ]
    )
    assert images == (RED, Path("b.png"))
    assert system == "Be brief."
    assert turns == (
        Turn("user", (None, f"\n{QUESTION}")),
        Turn("assistant", ("red",)),
        Turn("user", ("And\n", None)),
    )


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}], "video"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "system"),
    ],
)
def test_what_cannot_be_shown_is_refused(messages: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        conversation(messages)
    with pytest.raises(DataError, match="dict"):
        pictures([{"video": "a.mp4"}])


def test_the_entry_point_imports_nothing_of_theirs() -> None:
    code = "import sys, lensmith_plugins.lmms_eval; assert not {'lmms_eval', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with lmms-eval and this package from its wheel; the rest is found in ours."""
    folder = tmp_path_factory.mktemp("harness")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (folder / "lib" / version / "site-packages" / "parent.pth").write_text(line)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "lmms-eval>=0.7.3"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install lmms-eval here: {done.stderr[-500:]}")
    ours = ["--no-deps", "--ignore-installed", str(ROOT)]
    subprocess.run([*pip, *ours], check=True)
    return python


@pytest.fixture(scope="module")
def artifact(model_spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "tiny"
    lensmith.assemble({"model": model_spec}).save(folder)
    return folder


@pytest.fixture(scope="module")
def tasks(artifact: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder of tasks, and their rows: two of three targets are what the model says, or thinks likeliest."""
    model = lensmith.load(artifact)
    folder = tmp_path_factory.mktemp("tasks")
    documents: list[dict[str, Any]] = []
    for number in range(6):
        image = rows.parent / f"{number}.png"
        question = f"{number}: {QUESTION}"
        scores = [score.log for score in model.score([(image, question)], CHOICES)[0]]
        documents.append(
            {
                "image": str(image),
                "question": question,
                "said": model.generate(image, question, GenerationOptions(max_new_tokens=8)),
                "scores": scores,
                "likeliest": max(range(3), key=lambda choice: scores[choice]),
            }
        )
    for number, document in enumerate(documents):
        document["answer"] = document["said"] if number % 3 else "something else"
        if number % 3 == 0:
            document["likeliest"] = min(range(3), key=lambda choice: document["scores"][choice])
    data = folder / "rows.json"
    data.write_text(json.dumps([{k: v for k, v in row.items() if k not in ("said", "scores")} for row in documents]))
    for name, task in (("answers", ANSWERS), ("likeliest", LIKELIEST)):
        (folder / f"{name}.yaml").write_text(task.strip() + TASK.replace("ROWS", json.dumps(str(data))))
    (folder / "utils.py").write_text(UTILS)
    return folder, documents


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "options"), [("answers", ()), ("answers,likeliest", ("--force_simple",))])
def test_lmms_eval_runs_our_model_on_local_tasks(
    harness: Path,
    artifact: Path,
    tasks: tuple[Path, list[dict[str, Any]]],
    tmp_path: Path,
    chosen: str,
    options: tuple[str, ...],
) -> None:
    """Both of their interfaces, with answers and likelihoods that are those of `generate` and `score`."""
    folder, documents = tasks
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "WANDB_MODE": "disabled"}
    arguments = ["--model", "lensmith", "--model_args", f"artifact={artifact}", "--tasks", chosen, "--batch_size", "4"]
    arguments += ["--include_path", str(folder), "--output_path", str(tmp_path), "--log_samples", *options]
    command = [str(harness), "-m", "lmms_eval", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    results = list(tmp_path.rglob("*_results.json"))
    assert results, done.stdout[-4000:] + done.stderr[-8000:]
    told = json.loads(results[0].read_text())["results"]
    assert told["answers"]["right,none"] == pytest.approx(4 / 6)
    [samples] = tmp_path.rglob("*_samples_answers.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    said = {row["doc_id"]: "".join(row["filtered_resps"]) for row in rows}
    assert said == {number: document["said"] for number, document in enumerate(documents)}
    if "likeliest" in chosen:
        assert told["likeliest"]["acc,none"] == pytest.approx(4 / 6)
        [samples] = tmp_path.rglob("*_samples_likeliest.jsonl")
        for row in map(json.loads, samples.read_text().splitlines()):
            losses = [float(loss) for loss, _ in row["filtered_resps"]]
            assert losses == pytest.approx([-score for score in documents[row["doc_id"]]["scores"]], abs=1e-4)


@pytest.mark.slow
def test_their_registry_finds_us(harness: Path) -> None:
    code = (
        "from lmms_eval.models import MODEL_REGISTRY_V2 as r\n"
        "print(r.get_model_class('lensmith').__name__, r.get_model_class('lensmith', force_simple=True).__name__)"
    )
    done = subprocess.run([str(harness), "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-2:] == ["MessagesModel", "PromptModel"], done.stderr[-4000:]
