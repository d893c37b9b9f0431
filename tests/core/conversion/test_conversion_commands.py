"""`import`, `export`, `push` and `check --for` as a user types them, right and wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import lensmith
from lensmith.cli import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lensmith", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.fixture(scope="module")
def assembled(model_spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of the tiny parts, nothing trained."""
    return lensmith.assemble({"model": model_spec}).save(tmp_path_factory.mktemp("assembled") / "artifact")


def test_out_and_in_again(command: Command, assembled: Path, tmp_path: Path) -> None:
    code, out, _ = command("export", assembled, "--to", "hf", "-o", tmp_path / "hf")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'hf'}\nlogits within ")
    code, out, _ = command("import", tmp_path / "hf", "-o", tmp_path / "back", "conversation=chatml")
    assert code == 0
    assert "is a LlavaForConditionalGeneration (importer hf)" in out
    code, out, _ = command("export", tmp_path / "back", "--to", "llava", "--dry-run")
    assert (code, out) == (0, f"{tmp_path / 'back'} can be exported to llava\n")
    model = lensmith.load(tmp_path / "back")
    assert model.language_model.shape.vocabulary % 64 == 0


WRONG = [
    (("import", "nowhere", "-o", "x"), "error: nowhere does not exist; give a local folder or file, or a hub id"),
    (("import", "{empty}", "-o", "x"), "is no checkpoint that blip2 or hf or llava reads"),
    (("import", "{empty}", "-o", "x", "--format", "gguf"), "no importer is called 'gguf'"),
    (("export", "{artifact}", "--to", "onnx", "-o", "x"), "no exporter is called 'onnx'"),
    (("export", "{artifact}", "--to", "hf"), "say where to write with --output"),
    (
        ("export", "{artifact}", "--to", "hf", "-o", "x", "image=1"),
        "image: there is no such option. Its options: image",
    ),
    (("export", "{artifact}", "--to", "peft", "-o", "x"), "there are no adapters (nothing was trained)"),
    (("export", "{artifact}", "--to", "hf", "-o", "{empty}"), "exists already; choose another folder, or delete it"),
    (("export", "{weights}", "--to", "hf", "-o", "x"), "if another project wrote it, `lensmith import "),
    (("push", "{artifact}", "name"), "error: 'name' is no repository of the hub; it reads owner/name"),
    (("push", "{empty}", "owner/name"), "is not an artifact: it has no manifest.json"),
    (("push", "{artifact}", "owner/name"), "huggingface_hub is set to offline mode (HF_HUB_OFFLINE); unset it to push"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_what_is_wrong_is_said(
    command: Command, assembled: Path, tmp_path: Path, tiny_encoder: Path, words: tuple[str, ...], message: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"artifact": assembled, "empty": empty, "weights": tiny_encoder}
    code, out, error = command(*(word.format(**places) for word in words))
    assert (code, out) == (2, "")
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert not Path("x").exists()


def test_a_spec_is_checked_for_a_format(command: Command, light_spec: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    light_spec["model"]["connector"] = "linear"
    file.write_text(json.dumps(light_spec, indent=1))
    assert command("check", file, "--for", "llava")[0] == 0
    code, _, error = command("check", file, "--for", "llava", "--for", "hf")
    assert code == 2
    line = file.read_text().splitlines().index('  "connector": "linear",') + 1
    assert error.splitlines()[0] == (
        f"{file}:{line}: model.connector: hf cannot express this: the 'linear' connector; there is always an mlp of"
        " depth 2"
    )


def test_files_that_fit_two_formats(command: Command, tmp_path: Path) -> None:
    """An index of one format beside the projector of another: the option that settles it is named."""
    import torch

    folder = tmp_path / "both"
    folder.mkdir()
    nested = {"model_type": "llava", "text_config": {}, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(nested))
    save_file({"model.mm_projector.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    torch.save({"model.mm_projector.weight": torch.zeros(2, 2)}, folder / "mm_projector.bin")
    code, _, error = command("import", folder, "-o", tmp_path / "x")
    assert code == 2
    assert "hf takes it for a LlavaForConditionalGeneration; llava takes it for an original LLaVA projector" in error
    assert "Say which with --format" in error
