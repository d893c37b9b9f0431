"""A part that breaks one promise fails exactly one check, which says what was promised and what was seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lensmith.cli.plugin import app
from lensmith.errors import LensmithError
from lensmith.testing import CHECKS, Finding, Kit
from lensmith_registry import discover

# The check that fails, words of its promise, words of what was seen.
BROKEN: dict[str, tuple[str, str, str]] = {
    "opaque": ("spec", "can be written as JSON", "PydanticSerializationError"),
    "undescribed": ("spec", "has a description", "has none for gate"),
    "demanding": ("spec", "`tiny(folder)` of the spec", "depth: Field required"),
    "heavy": ("light", "neither torch nor transformers", "heavy_plugin.py:5 imports torch"),
    "misdeclared": ("shape", "declares every tensor", "declares layer.weight as (20, 13), and it is (20, 12)"),
    "capped": ("shape", "`projection` is the layer that `head` is", "Its logits differ by up to"),
    "miscounting": ("tokens", "tokens_out(N) is what forward gives", "tokens_out(16) is 17; forward gave 16"),
    "understated": ("tokens", "No picture takes more positions", "`largest` says 16"),
    "unreached": ("gradients", "Every parameter of a part that trains", "None reached spare.bias, spare.weight"),
    "neglectful": ("gradients", "The groups hold exactly what trains", "left out connector."),
    "restless": ("frozen", "weights and buffers stay", "forward changed seen"),
    "forgetting": ("save", "gives the very output", "Outputs differ by up to"),
    "lost": ("save", "the loss that it gave before", "after loading"),
    "fickle": ("handed-on", "`load` and `merge` put it into the weights", "in the artifact of a later stage"),
    "normed": ("batch", "each output of a batch is what its input gives alone; else losses", "Batch norms: norm;"),
    "sociable": ("batch", "what its input gives alone", "in a batch"),
    "leaky": ("batch", "what its input gives alone", "packed into one row"),
    "out_of_step": ("ranks", "calls the same layers in the same order", "of connector.layer with pictures"),
    "asking": ("spans", "Each answer is supervised, in one stretch", "2 supervised stretches"),
    "endless": ("spans", "else no answer would end", "stands ''"),
    "forgiving": ("answers", "without an answer is refused with a DataError, or told", "the score is 100.0 of 100.0"),
    "deaf": ("trip", "`logits` reads the files", "the logits are the artifact's"),
    "single_typed": ("moves", "holds its weights in it, takes it and gives it", "Its output is torch.float32"),
    "homebound": ("moves", "lies on the device", "wrong_modules.py"),
    "unseeded": ("seed", "The same seed gives the same weights", "layer.bias differ"),
    "moody": ("seed", "rendered to the same segments", "in two ways"),
}
FINE = (
    *("fine_benchmark", "fine_connector", "fine_encoder", "fine_splitter", "fine_talk", "fine_tuner", "fine_bitfit"),
)


@pytest.fixture(scope="module")
def findings(wrong_parts: None) -> dict[str, dict[str, Finding]]:
    """What every check found, by part and check."""
    found: dict[str, dict[str, Finding]] = {}
    with Kit("wrong-parts") as kit:
        for finding in kit.findings():
            found.setdefault(finding.component.name, {})[finding.check] = finding
    return found


def test_every_part_of_the_package_is_tested_with_every_check(findings: dict[str, dict[str, Finding]]) -> None:
    assert set(findings) == {*BROKEN, *FINE}
    assert {check.name for check in CHECKS} == {name for name, _, _ in BROKEN.values()}
    for of_part in findings.values():
        assert list(of_part) == [check.name for check in CHECKS]


@pytest.mark.parametrize("name", FINE)
def test_a_part_that_keeps_its_promises_passes(findings: dict[str, dict[str, Finding]], name: str) -> None:
    outcomes = {check: finding.outcome for check, finding in findings[name].items()}
    failed = [str(finding) for finding in findings[name].values() if finding.outcome == "fail"]
    assert failed == []
    assert "pass" in outcomes.values()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_fails_its_own_check(findings: dict[str, dict[str, Finding]], name: str) -> None:
    check, promise, seen = BROKEN[name]
    failed = [finding for finding in findings[name].values() if finding.outcome == "fail"]
    assert [finding.check for finding in failed] == [check], "\n".join(map(str, failed))
    assert promise in failed[0].promise
    assert seen in failed[0].seen
    assert failed[0].seen.rstrip().endswith(".")


def test_what_does_not_apply_says_why(findings: dict[str, dict[str, Finding]]) -> None:
    assert findings["fine_encoder"]["save"].outcome == "not applicable"
    assert "it cannot be trained: FineEncoder must implement save()" in findings["fine_encoder"]["save"].seen
    assert findings["fine_talk"]["gradients"].seen == "not for a conversation"
    assert {f.outcome for name, f in findings["demanding"].items() if name != "spec"} == {"not applicable"}


@pytest.mark.parametrize(
    ("target", "checks", "words"),
    [
        ("wrong-pats", (), "'wrong-pats'. Did you mean 'wrong-parts'"),
        ("wrong-parts", ("gradient",), "there is no check 'gradient'; the checks are spec, light"),
        ("recipes", (), "recipes offers no parts"),
    ],
)
def test_a_wrong_input_says_what_there_is(wrong_parts: None, target: str, checks: tuple[str, ...], words: str) -> None:
    with pytest.raises(LensmithError, match=words):
        Kit(target, checks)


def test_what_a_target_means(wrong_parts: None) -> None:
    assert [c.name for c in Kit("Wrong.Parts").components][:2] == ["fine_encoder", "normed"]
    assert [c.name for c in Kit("heavy_plugin").components] == ["heavy"]
    assert [str(c) for c in Kit("mlp").components] == ["connector 'mlp'"]
    ours = [c for c in discover().components() if c.distribution == "lensmith"]
    assert {str(c) for c in Kit("lensmith").components} == {str(c) for c in ours}
    assert {c.distribution for c in Kit().components}.isdisjoint({"lensmith"})


def test_the_command_prints_a_table_and_failures_in_full(wrong_parts: None) -> None:
    chosen = ["--check", "tokens", "--check", "batch"]
    done = CliRunner().invoke(app, ["test", "miscounting", *chosen])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["KIND", "NAME", "tokens", "batch"]
    assert lines[1].split() == ["connector", "miscounting", "FAIL", "ok"]
    assert "  promised: tokens_out(N) is what forward gives of N tokens." in lines
    assert "  seen:     tokens_out(16) is 17; forward gave 16." in lines
    done = CliRunner().invoke(app, ["test", "fine_connector", *chosen, "--json"])
    assert done.exit_code == 0
    assert [(f["name"], f["check"], f["outcome"]) for f in json.loads(done.stdout)] == [
        ("fine_connector", "tokens", "pass"),
        ("fine_connector", "batch", "pass"),
    ]


def test_three_lines_make_a_test_file(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "test_conformance.py"
    file.write_text(
        "from lensmith.testing import conformance_suite\n\n"
        'TestConformance = conformance_suite("miscounting", checks=["spec", "tokens", "save", "spans"])\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rfs", "-p", "no:cacheprovider", str(file)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert "2 passed" in done.stdout
    assert "1 failed" in done.stdout
    assert "connector-miscounting-tokens" in done.stdout
    assert "seen:     tokens_out(16) is 17; forward gave 16." in done.stdout
    assert "Traceback" not in done.stdout
    assert done.returncode == 1


def test_a_suite_is_collected_without_torch() -> None:
    code = (
        "import sys; from lensmith.testing import conformance_suite; conformance_suite('lensmith');"
        " print(*{'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
