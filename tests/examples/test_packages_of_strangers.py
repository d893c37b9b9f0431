"""Packages of strangers in a fresh environment: they keep their promises, and the broken one breaks nothing else."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lensmith.scaffold import kinds

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"
WORKING = {
    ("vision_encoder", "convnext"): "lensmith-convnext",
    ("connector", "ldp"): "lensmith-ldp",
    ("language_model", "redpajama"): "lensmith-redpajama",
    ("conversation", "redpajama"): "lensmith-redpajama",
    **{(kind.value, f"new-{kind.value}"): f"lensmith-new-{kind.value.replace('_', '-')}" for kind in kinds()},
}
CLAIMED = {("connector", "lensmith-broken:identity"): "lensmith-broken"}
"""A name that a built-in part has."""
USE = """
import json, pathlib, sys, torch, lensmith
from PIL import Image

torch.manual_seed(1)
home, rows, output = map(pathlib.Path, sys.argv[1:])
(home / "examples").mkdir()
(home / "new").mkdir()
def tiny(kind, name, folder):
    spec = lensmith.discover().get(kind, name).spec
    return {"name": name} | spec.tiny(folder).model_dump(mode="json")

examples = {
    "vision_encoder": tiny("vision_encoder", "convnext", home),
    "image_splitter": "pad",
    "connector": "ldp",
    "language_model": tiny("language_model", "redpajama", home / "examples"),
}
model = lensmith.assemble({"model": examples})
assert type(model.conversation).__module__ == "lensmith_redpajama"
picture = Image.new("RGB", (50, 30), "red")
asked = lensmith.GenerationOptions(max_new_tokens=8)
answer = model.generate(picture, "What colour is it?", asked)
again = lensmith.load(model.save(output / "examples")).generate(picture, "What colour is it?", asked)

new = {kind: f"new-{kind}" for kind in ("image_splitter", "connector", "conversation")}
new |= {kind: tiny(kind, f"new-{kind}", home / "new") for kind in ("vision_encoder", "language_model")}
stage = {"tuner": {"name": "new-tuner", "connector_lr": 1e-2}, "data": {"sources": str(rows)}, "lr": 1e-3}
stage |= {"batch": {"size": 4}, "precision": "fp32", "max_steps": 2}
spec = lensmith.load_spec({"model": new, "stages": {"tune": stage}})
before = lensmith.assemble(spec, seed=spec.stages["tune"].seed)
artifact = lensmith.train(spec, output=output / "new")[-1]
after = lensmith.load(artifact)
moved = sorted(n for (n, a), b in zip(before.named_parameters(), after.parameters(), strict=True) if (a != b).any())
planned = [p.name for p in lensmith.plan(spec).stages[0].trainable]

def said(language_model):
    model = lensmith.assemble({"model": new | {"language_model": language_model}})
    text = model.generate(picture, "What?", asked)
    # Untrained, it may say little.
    stop = lensmith.GenerationOptions(max_new_tokens=16, stop=(text[2:4] or text or "q",))
    chosen = (asked, stop, lensmith.GenerationOptions(9, beams=3))
    texts = [model.generate(picture, "What?", options) for options in chosen]
    texts += model.generate_batch([(picture, "What colour is it?"), (None, "Say 1.")], asked)
    streamed = ["".join(model.stream(picture, "What?", options)) for options in (stop, asked)]
    torch.manual_seed(0)
    return [*texts, *streamed, model.generate(None, "Hi", lensmith.GenerationOptions(8, temperature=1.5, top_p=0.9))]

theirs = said(new["language_model"])
ours = said({"name": "hf_causal", "checkpoint": new["language_model"]["checkpoint"]})
told = {"answer": answer, "again": again, "moved": moved, "planned": planned, "theirs": theirs, "ours": ours}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def parts(environment: Any) -> dict[tuple[str, str], dict[str, str]]:
    return {(part["kind"], part["name"]): part for part in environment.told("list", "--json")}


def test_all_are_listed_as_installed(parts: dict[tuple[str, str], dict[str, str]]) -> None:
    assert {
        key: part["distribution"] for key, part in parts.items() if part["distribution"] != "lensmith"
    } == WORKING | CLAIMED
    assert {parts[key]["version"] for key in WORKING} == {"0.1.0", "1.0.0"}


def test_the_broken_one_breaks_nothing_else(environment: Any, parts: dict[tuple[str, str], dict[str, str]]) -> None:
    disabled = {"LENSMITH_DISABLE_PLUGINS": "lensmith-broken"}
    whole = {(part["kind"], part["name"]) for part in environment.told("list", "--json", **disabled)}
    assert parts.keys() - whole == CLAIMED.keys()  # the built-in part keeps its name
    assert whole <= parts.keys()


def test_plugins_says_who_what_and_what_to_do(environment: Any) -> None:
    plugins = {p["name"]: p for p in environment.told("plugins", "--json") if p["distribution"] == "lensmith-broken"}
    assert {p["version"] for p in plugins.values()} == {"0.4.0"}
    errors = {name: plugin["error"] for name, plugin in plugins.items()}
    assert errors["broken_import"] == "ModuleNotFoundError: No module named 'a_library_that_nobody_installed'"
    assert "api_version 99, this Lensmith has api_version 1" in errors["wrong_api_version"]
    assert "unknown hook 'lensmith_component'" in errors["misspelt_hook"]
    assert errors["misspelt_hook"].endswith("Rename lensmith_component to lensmith_components")
    assert errors["duplicate_name"] is None
    remedies = {name: plugin["remedy"] for name, plugin in plugins.items()}
    assert "provides 'a_library_that_nobody_installed'" in remedies["broken_import"]
    assert "`pip install --upgrade lensmith-broken lensmith`" in remedies["wrong_api_version"]
    for name in ("broken_import", "wrong_api_version", "misspelt_hook"):
        assert f"`pip uninstall lensmith-broken`, or LENSMITH_DISABLE_PLUGINS={name} " in remedies[name]

    text = environment.lensmith("plugins").stdout
    for name in ("broken_import", "wrong_api_version", "misspelt_hook"):
        assert f"\n{name} of lensmith-broken 0.4.0 failed: {errors[name]}\nWhat to do: {remedies[name]}\n" in text
    assert re.search(r"^duplicate_name +lensmith-broken 0\.4\.0 +renamed ", text, re.M)
    assert "conflict: connector 'identity' is the built-in part; the one of lensmith-broken 0.4.0 is named" in text
    assert len(re.findall(r"^What to do: ", text, re.M)) == 3
    assert re.search(r"^lensmith_ldp +lensmith-ldp 1\.0\.0 +ok +1 +\d+ ms$", text, re.M)


def test_the_remedy_works(environment: Any) -> None:
    names = "broken_import,wrong_api_version,misspelt_hook,duplicate_name"
    done = environment.lensmith("list", LENSMITH_DISABLE_PLUGINS=names)
    assert done.stderr == ""


def test_descriptions_of_fields_are_everywhere(environment: Any, light_spec: dict[str, Any], tmp_path: Path) -> None:
    shown = environment.lensmith("show", "connector", "ldp").stdout
    assert "How many tokens a side are averaged to one: N tokens become N / factor². Default 2." in shown
    field = environment.told("show", "connector", "new-connector", "--json")["schema"]["properties"]["depth"]
    assert field["description"] == "Number of linear layers, 1 to 8. Default 2."

    light_spec["model"]["connector"] = {"name": "ldp", "factor": 0}
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(light_spec))
    done = environment.lensmith("check", wrong, check=False)
    assert done.returncode == 2
    told = "model.connector.factor: should be greater than or equal to 1; it is 0 (How many tokens a side are averaged"
    assert told in done.stderr


def test_the_schema_knows_third_party_fields(environment: Any, light_spec: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(environment.told("schema"))
    light_spec["model"]["connector"] = {"name": "ldp", "factor": 2}
    light_spec["model"]["conversation"] = {"name": "new-conversation", "user": "Asked"}
    assert list(validator.iter_errors(light_spec)) == []
    for wrong in ({"name": "ldp", "factor": 0}, {"name": "ldp", "facto": 2}):
        light_spec["model"]["connector"] = wrong
        assert list(validator.iter_errors(light_spec)) != []


def test_a_grid_that_does_not_fit_is_told_by_check(
    environment: Any, light_spec: dict[str, Any], tmp_path: Path
) -> None:
    light_spec["model"]["connector"] = {"name": "ldp", "factor": 4}
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(light_spec))
    done = environment.lensmith("check", file, check=False)
    assert done.returncode == 2
    assert "the ldp connector cannot divide the vision encoder's 2 x 2 tokens" in done.stderr


def test_models_of_strangers_parts_answer_and_train(environment: Any, rows: Path, tmp_path: Path) -> None:
    for folder in ("home", "output"):
        (tmp_path / folder).mkdir()
    done = environment.run("-c", USE, tmp_path / "home", rows, tmp_path / "output", cwd=tmp_path, DS_ACCELERATOR="cpu")
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["answer"] == told["again"]
    # The new language model is a wrapper of its own; it says what the shipped one says of the same weights.
    assert told["theirs"] == told["ours"]
    assert told["theirs"][:2] == told["theirs"][-2:-4:-1]  # whole and streamed, to the end and to a stop text
    assert told["theirs"][0] != told["theirs"][1]
    assert told["moved"] == sorted(told["planned"])
    parts = {name.split(".")[0] for name in told["moved"]}
    assert parts == {"connector", "image_splitter", "language_model"}


def test_their_own_tests_pass(environment: Any, tmp_path: Path) -> None:
    tests = [folder / "tests" for folder in environment.sources]
    options = ("--import-mode=importlib", "-p", "no:cacheprovider", "-q", "--rootdir", tmp_path, "-k", "not ranks")
    done = environment.run("-m", "pytest", *options, *tests, cwd=tmp_path)
    assert re.search(r"^\d+ passed", done.stdout.splitlines()[-1]), done.stdout
    passed = int(done.stdout.splitlines()[-1].split()[0])
    assert passed >= 4 * len(WORKING)


@pytest.mark.slow
def test_two_processes_agree(environment: Any) -> None:
    findings = environment.told("plugin", "test", "--check", "ranks", "--json")
    tested = {(f["kind"], f["name"]): f["outcome"] for f in findings}
    assert tested.keys() == WORKING.keys()
    assert {outcome for (kind, _), outcome in tested.items() if kind != "conversation"} == {"pass"}


@pytest.mark.parametrize("package", ["convnext_encoder", "ldp_connector", "redpajama_language_model"])
def test_an_example_is_short_and_needs_nothing_private(package: str) -> None:
    files = [file for file in (EXAMPLES / package).rglob("*.py") if "tests" not in file.parts]
    lines = [line for file in files for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) < 80
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [m for m in modules if m.startswith("lensmith") and m not in ("lensmith", "lensmith.testing")]
            assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"))
