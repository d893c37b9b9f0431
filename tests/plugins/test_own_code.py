"""A1: code that a checkpoint or an artifact brings along is never run, and nobody is asked whether to run it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lensmith.artifacts import MANIFEST
from lensmith.files import inventory, write_json

EVIL = """
from pathlib import Path
Path({mark!r}).write_text("ran")
class Evil: ...
class EvilConfig(Evil): ...
class EvilModel(Evil): ...
class EvilTokenizer(Evil): ...
"""
MAP = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModelForCausalLM": "evil.EvilModel",
    "AutoModel": "evil.EvilModel",
    "AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"],
}


def edit(file: Path, **fields: Any) -> None:
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, **fields}))


def with_code(source: Path, folder: Path, mark: Path, *files: str, **fields: Any) -> Path:
    """A copy of a checkpoint whose configs name a file that leaves a mark when it is imported."""
    shutil.copytree(source, folder)
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    for name in files:
        edit(folder / name, auto_map=MAP, **fields)
    return folder


def lensmith(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, with a user who says yes to everything."""
    command = [sys.executable, "-c", "from lensmith.cli import main; main()", *arguments]
    return subprocess.run(command, input="yes\n" * 50, capture_output=True, text=True, timeout=300, check=False)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in result.stderr, result.stderr
    told = [line for line in result.stderr.splitlines() if "auto_map" in line]
    assert told, result.stderr + result.stdout
    assert "[y/N]" not in result.stdout + result.stderr
    return told[0]


@pytest.mark.parametrize("command", [["plan"], ["data", "preview"], ["data", "check"]])
@pytest.mark.parametrize("known", [True, False])
def test_A1_a_base_checkpoint_with_code_of_its_own(
    known: bool, command: list[str], spec: dict[str, Any], tiny_language_model: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    fields: dict[str, Any] = {} if known else {"tokenizer_class": "EvilTokenizer"}
    folder = with_code(tiny_language_model, tmp_path / "base", mark, "tokenizer_config.json", **fields)
    edit(folder / "config.json", auto_map=MAP, **({} if known else {"model_type": "evil"}))
    spec["model"]["language_model"] = {"name": "hf_causal", "checkpoint": str(folder)}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(spec))
    result = lensmith(*command, str(file))
    assert not mark.exists(), "the checkpoint's code ran"
    if known and command == ["plan"]:  # sizes follow from config.json alone: nothing is loaded
        assert result.returncode == 0, result.stderr
        return
    assert result.returncode == (0 if known else 2)
    assert re.search("never run", one_line(result))


def test_A1_an_encoder_with_code_of_its_own(
    spec: dict[str, Any], tiny_encoder: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    from lensmith import assemble

    mark = tmp_path / "mark"
    folder = with_code(tiny_encoder, tmp_path / "encoder", mark, "config.json", "preprocessor_config.json")
    spec["model"]["vision_encoder"]["checkpoint"] = str(folder)
    assemble(spec)
    assert not mark.exists()
    assert any("auto_map" in str(warning.message) for warning in recwarn)


def test_A1_an_artifact_with_code_of_its_own(spec: dict[str, Any], tmp_path: Path) -> None:
    from lensmith.training import train

    spec["stages"] = {"align": {**spec["stages"]["align"], "max_steps": 1}}
    train(spec, output=tmp_path / "run")
    artifact, mark = tmp_path / "run" / "align", tmp_path / "mark"
    (artifact / "tokenizer" / "evil.py").write_text(EVIL.format(mark=str(mark)))
    edit(artifact / "tokenizer" / "tokenizer_config.json", auto_map=MAP, tokenizer_class="EvilTokenizer")
    _hash_again(artifact)
    result = lensmith("generate", str(artifact), "--prompt", "Hi")
    assert not mark.exists(), "the artifact's code ran"
    assert result.returncode == 2
    assert "never run" in one_line(result)


def test_A1_artifacts_of_such_a_base_name_no_code(
    spec: dict[str, Any], tiny_language_model: Path, tmp_path: Path
) -> None:
    from lensmith import load
    from lensmith.training import train

    folder = with_code(tiny_language_model, tmp_path / "base", tmp_path / "m", "config.json", "tokenizer_config.json")
    spec["model"]["language_model"]["checkpoint"] = str(folder)
    spec["stages"] = {"tune": {**spec["stages"]["tune"], "tuner": "full", "lr": 1e-3, "max_steps": 1}}
    train(spec, output=tmp_path / "run")
    written = [file for file in (tmp_path / "run" / "tune").rglob("*.json") if "auto_map" in file.read_text()]
    assert written == []
    load(tmp_path / "run" / "tune")
    assert not (tmp_path / "m").exists()


def test_A1_every_call_of_transformers_says_so() -> None:
    """No `from_pretrained` or `from_config` of the packages leaves the question to transformers."""
    root = Path(__file__).parents[2]
    calls = re.compile(r"\.(?:from_pretrained|from_config)\(")
    for file in [*root.glob("plugins/**/*.py"), *root.glob("core/**/*.py")]:
        text = file.read_text(encoding="utf-8")
        for found in calls.finditer(text):
            call = _call(text, found.end())
            allowed = "trust_remote_code" in call or "PeftModel" in text[: found.start()][-20:] or "**options" in call
            assert allowed, f"{file}: {call}"


def _call(text: str, start: int) -> str:
    depth, place = 1, start
    while depth:
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        place += 1
    return text[start:place]


def _hash_again(artifact: Path) -> None:
    """Make the manifest agree with files that were edited, as an attacker would."""
    data = json.loads((artifact / MANIFEST).read_text())
    data["files"] = {name: entry for name, entry in inventory(artifact).items() if name != MANIFEST}
    write_json(artifact / MANIFEST, data)
