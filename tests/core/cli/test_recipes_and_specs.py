"""What is shipped and what a spec resolves to, told without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lensmith
from lensmith.spec import dump, load_spec


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lensmith.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_N20_recipes_are_listed_and_shown() -> None:
    told = json.loads(command("recipes", "--json").stdout)
    about = {entry["name"]: entry["about"] for entry in told}
    assert about["llava-1.5-7b"].startswith("LLaVA-1.5 7B (Liu et al. 2023, arXiv 2310.03744)")
    assert all(about.values())
    shown = command("show", "recipe", "llava-1.5-7b")
    assert shown.returncode == 0
    (file,) = (Path(entry["file"]) for entry in told if entry["name"] == "llava-1.5-7b")
    assert shown.stdout.startswith(file.read_text().rstrip())
    assert "lensmith check llava-1.5-7b --resolved" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("recipe", "llava-1.5-7"), ("there is no recipe 'llava-1.5-7'", "'llava-1.5-7b'")),
        (("recpe", "x"), ("'recpe' is not one of", "Did you mean 'recipe'?", "benchmark")),
        (("conectors", "mlp"), ("'conectors' is not one of", "Did you mean 'connector'?")),
    ],
)
def test_N20_what_is_not_there_says_what_is(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = command("show", *arguments)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert done.stderr.count("\n") == 1


def test_N20_the_resolved_spec_is_printed() -> None:
    rows = "stages.{}.data.sources={{path: {}}}"
    overrides = [rows.format(stage, __file__) for stage in ("pretrain", "finetune")]
    done = command("check", "llava-1.5-7b", *overrides, "--resolved")
    whole = dump(load_spec("llava-1.5-7b", overrides))
    assert (done.returncode, yaml.safe_load(done.stdout)) == (0, json.loads(json.dumps(whole)))
    assert whole["stages"]["finetune"]["batch"]["size"] == 128
    told = json.loads(command("check", "llava-1.5-7b", *overrides, "--resolved", "--json").stdout)
    assert (told["ok"], told["spec"]) == (True, json.loads(json.dumps(whole)))
    # With mistakes it is printed too, and they are told.
    wrong = command("check", "llava-1.5-7b", "--resolved")
    assert wrong.returncode == 2
    assert yaml.safe_load(wrong.stdout)["model"]["connector"]["name"] == "mlp"
    assert "names no file of rows" in wrong.stderr


def test_N20_the_version_and_the_completion() -> None:
    assert command("--version").stdout == f"lensmith {lensmith.__version__}\n"
    help_text = command("--help").stdout
    assert "--install-completion" in help_text
    asking = {"_LENSMITH_COMPLETE": "complete_bash", "COMP_WORDS": "lensmith rec", "COMP_CWORD": "1"}
    script = str(Path(sys.executable).with_name("lensmith"))
    done = subprocess.run([script], capture_output=True, text=True, check=False, env={**os.environ, **asking})
    assert (done.returncode, done.stdout.split()) == (0, ["recipes"])


def test_N20_the_shape_of_a_module_as_code() -> None:
    from torch import nn

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 4)
            self.norm = nn.LayerNorm(4)
            self.scale = nn.RMSNorm(4)
            self.last = nn.Linear(4, 3, bias=False)
            self.conv = nn.Conv2d(3, 2, 2)
            self.query = nn.Parameter(self.last.weight.detach()[:1].clone())

    module = Part()
    code = lensmith.shape_code(module)
    names = {name: getattr(lensmith, name) for name in ("linear", "norm", "ParameterShape")}
    told = eval(code, names)
    assert sorted(told, key=lambda s: s.name) == sorted(lensmith.parameter_shapes(module), key=lambda s: s.name)
    assert 'linear("first", 6, 4)' in code
    assert 'norm("scale", 4, bias=False)' in code
