"""Study files, their variants, what variants share, and what is said of findings. Nothing trains."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensmith.ablation.checking import require_runnable
from lensmith.ablation.engine import ablate, overview, prepare, report
from lensmith.ablation.results import estimate
from lensmith.ablation.study import read_study
from lensmith.ablation.variants import difference, variants
from lensmith.errors import LensmithError, SpecError
from lensmith.evaluation.suite import read_suite
from lensmith.files import write_json

TUNE = "stages.tune"


@pytest.fixture
def study(light_spec: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Writes a study of two stages beside its base."""
    rows = {"sources": "rows.jsonl"}
    light_spec["stages"] = {
        "align": {"tuner": "frozen", "data": rows, "max_steps": 2},
        "tune": {"tuner": {"name": "lora", "rank": 4}, "data": rows, "max_steps": 2},
    }
    (tmp_path / "base.json").write_text(json.dumps(light_spec))

    def write(**fields: Any) -> Path:
        file = tmp_path / "study.json"
        file.write_text(json.dumps({"base": "base.json", **fields}))
        return file

    return write


AXES = {
    "model.connector": ["mlp", {"name": "mlp", "depth": 3}],
    "rank": {"small": {f"{TUNE}.tuner.rank": 2, f"{TUNE}.lr": 1e-3}, "large": {f"{TUNE}.tuner.rank": 8}},
}
VQA = {"name": "vqa", "data": "questions.jsonl"}


def finding(better: dict[str, str], than: dict[str, str]) -> dict[str, Any]:
    return {"claim": "c", "source": "table 1", "better": better, "than": than}


FINDING = finding({f"{TUNE}.tuner.rank": "8"}, {f"{TUNE}.tuner.rank": "2"})


class TestVariants:
    def test_grid(self, study: Callable[..., Path]) -> None:
        found = variants(read_study(study(axes=AXES)))
        assert [v.name for v in found] == [
            "connector mlp, rank small",
            "connector mlp, rank large",
            "connector mlp depth=3, rank small",
            "connector mlp depth=3, rank large",
        ]

    def test_one_at_a_time(self, study: Callable[..., Path]) -> None:
        found = variants(read_study(study(axes=AXES, design="single")))
        assert {v.name: tuple(v.choices.values()) for v in found} == {
            "reference": ("mlp", "small"),
            "connector mlp depth=3": ("mlp depth=3", "small"),
            "rank large": ("mlp", "large"),
        }

    def test_rows_written_out(self, study: Callable[..., Path]) -> None:
        file = study(set={f"{TUNE}.lr": 0.5}, runs=[{"name": "a"}, {"name": "b", "set": {f"{TUNE}.tuner": "full"}}])
        first, second = variants(loaded := read_study(file))
        assert first.spec(loaded).stages["tune"].tuner.name == "lora"
        assert second.spec(loaded, seed=7).stages["tune"].tuner.name == "full"
        assert {s.seed for s in second.spec(loaded, seed=7).stages.values()} == {7}
        assert second.spec(loaded).stages["tune"].lr == 0.5

    def test_a_row_goes_on_from_one_above(self, study: Callable[..., Path]) -> None:
        runs = [
            {"name": "a", "set": {f"{TUNE}.lr": 0.5, f"{TUNE}.tuner.rank": 2}},
            {"name": "b", "like": "a", "set": {f"{TUNE}.tuner.rank": 8}},
            {"name": "c", "like": "b", "until": "align"},
        ]
        loaded = read_study(study(set={f"{TUNE}.lr": 0.1}, runs=runs))
        first, second, third = (v.spec(loaded, seed=3) for v in variants(loaded))
        assert [(s.stages["tune"].lr, s.stages["tune"].tuner.rank) for s in (first, second)] == [(0.5, 2), (0.5, 8)]
        assert list(third.stages) == ["align"]
        assert third.stages["align"].seed == 3

    def test_paired_paths_change_together(self, study: Callable[..., Path]) -> None:
        loaded = read_study(study(axes=AXES))
        tuned = [v.spec(loaded).stages["tune"] for v in variants(loaded)]
        assert [(stage.tuner.rank, stage.lr) for stage in tuned[:2]] == [(2, 1e-3), (8, tuned[1].lr)]
        assert tuned[1].lr != 1e-3

    def test_paths_are_relative_to_the_study(
        self, study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "other.jsonl").write_text("{}\n")
        file = study(axes={f"{TUNE}.data.sources": ["rows.jsonl", "other.jsonl"]})
        monkeypatch.chdir("/")
        loaded = read_study(file)
        sources = [v.spec(loaded).stages["tune"].data.sources[0].path for v in variants(loaded)]
        assert sources == [tmp_path / "rows.jsonl", tmp_path / "other.jsonl"]

    def test_presets(self, study: Callable[..., Path]) -> None:
        presets = {"quick": {"axes": ["rank"], "seeds": [1], "set": {f"{TUNE}.max_steps": 1}, "limit": 5}}
        quick = read_study(study(axes=AXES, seeds=[1, 2], presets=presets, benchmarks=[VQA])).preset("quick")
        assert [v.name for v in variants(quick)] == ["rank small", "rank large"]
        assert (quick.seeds, quick.benchmarks[0].limit) == ([1], 5)
        assert variants(quick)[0].spec(quick).stages["tune"].max_steps == 1

    def test_a_preset_with_some_choices(self, study: Callable[..., Path]) -> None:
        """Its first is the reference, and findings about the others are left out."""
        axes = {f"{TUNE}.tuner.rank": [2, 4, 8]}
        findings = [FINDING, finding({f"{TUNE}.tuner.rank": "4"}, {f"{TUNE}.tuner.rank": "2"})]
        presets = {"quick": {"axes": {f"{TUNE}.tuner.rank": ["8", "2"]}}}
        quick = read_study(study(axes=axes, findings=findings, presets=presets)).preset("quick")
        assert [v.name for v in variants(quick)] == ["rank 8", "rank 2"]
        assert [f.better for f in quick.findings] == [FINDING["better"]]

    def test_an_axis_that_a_preset_drops_stays_at_its_reference(self, study: Callable[..., Path]) -> None:
        presets = {"quick": {"axes": ["model.connector"]}, "low": {"axes": [], "set": {f"{TUNE}.tuner.rank": 3}}}
        loaded = read_study(study(axes=AXES, set={f"{TUNE}.tuner.rank": 16}, presets=presets))
        ranks = [[v.spec(s).stages["tune"].tuner.rank for v in variants(s)] for s in map(loaded.preset, presets)]
        assert ranks == [[2, 2], [3]]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"axis": {}}, "axis: there is no such field. Fields of a study: base, set, axes"),
        ({"axes": {"model.connector": []}}, "axis 'model.connector' has no choices"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml"),
        ({"axes": {"model.connector": ["mlp", "mpl"]}}, "variant 'connector mpl': no connector is called 'mpl'"),
        ({"axes": {"model.depth": [1]}}, "there is no such field"),
        ({"axes": AXES, "findings": [finding({"rank": "huge"}, {"rank": "small"})]},
         "finding 'c': rank has no 'huge'; it has small, large"),
        ({"axes": AXES, "findings": [finding({"size": "1"}, {"size": "2"})]},
         "finding 'c': no axis 'size'; there are model.connector, rank"),
        ({"benchmarks": [VQA, VQA]}, "vqa is there twice; give each a label of its own"),
        ({"presets": {"quick": {"axes": ["ranks"]}}}, "presets.quick.axes: no axis ranks; there are"),
        ({"axes": AXES, "presets": {"quick": {"axes": {"rank": ["small", "huge"]}}}},
         "presets.quick.axes.rank: huge; it has small, large"),
        ({"runs": [{"name": "a", "like": "b"}, {"name": "b"}]}, "no row above is called 'b'; there are none"),
        ({"runs": [{"name": "a", "until": "end"}]}, "variant 'a': there is no stage 'end'; there are align, tune"),
        ({"benchmarks": [{**VQA, "name": "vaq"}]}, "benchmarks.vaq: "),
        ({"benchmarks": [{**VQA, "options": {"sufix": ""}}]}, "vqa has no option 'sufix'. Did you mean 'suffix'?"),
        ({"benchmarks": [{"name": "mmvet", "data": "d"}]}, "marked by a judge; say who, `judge: {url: …}`"),
    ],
)  # fmt: skip
def test_mistakes(study: Callable[..., Path], fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        prepare(study(**fields), tmp_path / "out")
    assert said in str(caught.value)


def test_an_unknown_preset_is_named(study: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no preset 'fast'; the study has quick"):
        prepare(study(presets={"quick": {}}), tmp_path / "out", "fast")


def test_what_a_variant_changes_is_told_by_both_specs(study: Callable[..., Path], tmp_path: Path) -> None:
    """Also where only one of them sets a path: the other has its base's value."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "rows.jsonl").write_text((tmp_path / "rows.jsonl").read_text())
    choices: dict[str, Any] = {
        "base": {},
        "other": {
            f"{TUNE}.data.sources.0.path": "more/rows.jsonl",
            "model.connector.depth": 3,
            "model.image_splitter": {"name": "square"},
            "stages.align.max_steps": 2,
        },
    }
    read = read_study(study(axes={"what": choices}))
    reference, other = variants(read)
    changes = difference(other, reference, read)
    assert changes[f"{TUNE}.data.sources.0.path"] == ("rows.jsonl", "more/rows.jsonl")
    assert changes["model.connector.depth"] == (2, 3)
    assert changes["model.image_splitter"] == ("pad", {"name": "square"})
    assert difference(reference, other, read)["model.connector.depth"] == (3, 2)
    assert difference(reference, reference, read) == {}
    sources = {f"{TUNE}.data.sources": [{"path": "more/rows.jsonl"}]}
    read = read_study(study(axes={"rows": {"base": {}, "other": sources}}))
    reference, other = variants(read)
    assert difference(other, reference, read) == {
        f"{TUNE}.data.sources": (["rows.jsonl"], [{"path": "more/rows.jsonl"}])
    }


def test_only_a_whole_checkpoint_is_resumed(study: Callable[..., Path], tmp_path: Path) -> None:
    """A stop during the first one leaves a folder that training calls nothing to resume."""
    (unit, *_) = prepare(study(), tmp_path / "out").work.units()
    checkpoints = unit.folder / "run" / "checkpoints" / "align"
    (checkpoints / ".writing-step-00000001").mkdir(parents=True)
    assert "--resume" not in unit.arguments()
    (checkpoints / "step-00000001").mkdir()
    write_json(checkpoints / "step-00000001" / "manifest.json", {})
    assert unit.arguments()[-1] == "--resume"


def test_a_torn_summary_is_no_score(study: Callable[..., Path], tmp_path: Path) -> None:
    (unit,) = prepare(study(benchmarks=[VQA]), tmp_path / "out").work.scoring.values()
    unit.scores[0].summary.parent.mkdir(parents=True)
    unit.scores[0].summary.write_text("")
    assert (unit.done, unit.ended) == (False, False)


class TestSharing:
    def test_equal_first_stages_are_one(self, study: Callable[..., Path], tmp_path: Path) -> None:
        prepared = prepare(study(axes={f"{TUNE}.tuner.rank": [2, 4, 8]}, benchmarks=[VQA]), tmp_path / "out")
        chains = list(prepared.work.training.values())
        assert len({chain[0].key for chain in chains}) == 1
        assert len({chain[1].key for chain in chains}) == 3
        assert len(prepared.work.units()) == 1 + 3 + 3
        assert any("4 stages to train instead of 6" in line for line in overview(prepared))

    def test_what_a_stage_depends_on(self, study: Callable[..., Path], tmp_path: Path) -> None:
        def keys(**fields: Any) -> list[str]:
            prepared = prepare(study(**fields), tmp_path / "out")
            return [unit.key for unit in next(iter(prepared.work.training.values()))]

        plain = keys()
        assert keys() == plain
        assert keys(set={f"{TUNE}.checkpoints.every": 1, f"{TUNE}.data.workers": 1}) == plain
        later = keys(set={f"{TUNE}.lr": 0.1})
        assert (later[0] == plain[0], later[1] == plain[1]) == (True, False)
        assert not set(keys(seeds=[1])) & set(plain)
        assert not set(keys(set={"model.connector.depth": 4})) & set(plain)
        (tmp_path / "rows.jsonl").write_text('{"id": "other"}\n')
        assert not set(keys()) & set(plain)

    def test_scores_depend_on_the_questions(self, study: Callable[..., Path], tmp_path: Path) -> None:
        file = study(benchmarks=[VQA])
        folders = []
        for text in ("{}", "{ }"):
            (tmp_path / "questions.jsonl").write_text(text)
            (unit,) = prepare(file, tmp_path / "out").work.scoring.values()
            folders.append(unit.scores[0].summary.parent)
        assert folders[0] != folders[1]

    def test_scores_depend_on_the_files_of_a_folder(self, study: Callable[..., Path], tmp_path: Path) -> None:
        file = study(benchmarks=[{**VQA, "data": "bench"}])
        (tmp_path / "bench" / "sub").mkdir(parents=True)
        keys = []
        for name, text in (
            ("questions.jsonl", "{}"),
            ("sub/labels.json", "[]"),
            ("sub/labels.json", "[1]"),
            ("p.png", ""),
        ):
            (tmp_path / "bench" / name).write_text(text)
            (unit,) = prepare(file, tmp_path / "out").work.scoring.values()
            keys.append(unit.scores[0].key)
        assert len(set(keys[:3])) == 3
        assert keys[3] == keys[2]  # pictures are told by name

    def test_a_preset_asks_no_more_than_an_entry(self, study: Callable[..., Path], tmp_path: Path) -> None:
        named = [{**VQA, "label": "a", "limit": 5}, {**VQA, "label": "b"}]
        read = read_study(study(benchmarks=named, presets={"quick": {"limit": 20}}))
        assert [entry.limit for entry in read.preset("quick").benchmarks] == [5, 20]

    def test_a_judge_is_told_to_the_command(self, study: Callable[..., Path], tmp_path: Path) -> None:
        judge = {"url": "http://localhost:1/v1", "cache": "replies.jsonl"}
        file = study(benchmarks=[{"name": "mmvet", "data": "d", "options": {"repeats": 5}}], judge=judge)
        (unit,) = prepare(file, tmp_path / "out").work.scoring.values()
        said = unit.arguments()
        told = {name: said[said.index(name) + 1] for name in ("--judge-url", "--judge-cache")}
        assert told == {"--judge-url": judge["url"], "--judge-cache": str(tmp_path / "replies.jsonl")}
        assert "--yes" in said
        (entry,) = read_suite(Path(said[said.index("--suite") + 1])).benchmarks
        assert (entry.name, entry.options) == ("mmvet", {"repeats": 5})

    def test_only_scores_that_are_not_there_are_asked_for(self, study: Callable[..., Path], tmp_path: Path) -> None:
        named = [{**VQA, "label": label, "limit": limit} for label, limit in (("a", 1), ("b", 2), ("as a", 1))]
        file = study(benchmarks=named)
        (unit,) = prepare(file, tmp_path / "out").work.scoring.values()

        def asked() -> list[int | None]:
            said = unit.arguments()
            return [entry.limit for entry in read_suite(Path(said[said.index("--suite") + 1])).benchmarks]

        assert asked() == [1, 2]
        write_summary(unit.scores[0].summary)
        assert asked() == [2]
        assert "score b (" in unit.title
        assert not unit.done
        write_summary(unit.scores[1].summary)
        assert unit.done

    def test_rows_that_are_told_are_costed(self, study: Callable[..., Path], tmp_path: Path) -> None:
        gone = {"stages.align.data.sources": "gone.jsonl", f"{TUNE}.data.sources": "gone.jsonl"}
        steps = {"stages.align.max_steps": None, f"{TUNE}.max_steps": None}
        half = {f"{TUNE}.data.sources": {"path": "gone.jsonl", "fraction": 0.5}}

        def flops(**fields: Any) -> list[float | None]:
            prepared = prepare(study(set=gone | steps, **fields), tmp_path / "out")
            return [line.cost.flops for line in report(prepared).lines]

        assert flops() == [None]
        (first,) = flops(rows={"gone.jsonl": 100})
        (second,) = flops(rows={"gone.jsonl": 200})
        less = flops(rows={"gone.jsonl": 200}, runs=[{"name": "half", "set": half}])
        assert first is not None
        assert second == pytest.approx(2 * first)
        assert first < (less[0] or 0) < second

    def test_N5_every_variant_is_checked_as_one_spec_is(self, study: Callable[..., Path], tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_text("")
        axes = {
            "batch": {
                "good": {f"{TUNE}.batch.size": 16},
                "odd": {f"{TUNE}.batch.size": 16, f"{TUNE}.batch.micro": 5},
                "long": {f"{TUNE}.data.max_length": 2},
                "typo": {f"{TUNE}.rate": 1},
                "gone": {f"{TUNE}.data.sources": "gone.jsonl"},
            }
        }
        file = study(axes=axes, benchmarks=[{**VQA, "data": "nowhere.jsonl"}, {**VQA, "label": "empty"}])
        (tmp_path / "questions.jsonl").write_text('{"id": 1, "question": "which?"}\n')
        with pytest.raises(SpecError) as refused:
            ablate(file, tmp_path / "out")
        told = [str(problem) for problem in refused.value.problems]
        assert len(told) == 6, told
        for wanted in (
            "stages.tune.batch.micro: variant 'batch odd': a step of ",
            "stages.tune.data.max_length: variant 'batch long': ",
            f"stages.tune.data.sources.0.path: variant 'batch gone': {tmp_path / 'gone.jsonl'} does not exist",
            f"benchmarks.vqa: {tmp_path / 'nowhere.jsonl'} does not exist",
            "benchmarks.empty: ",
            "stages.tune.rate: variant 'batch typo': there is no such field",
        ):
            assert any(wanted in line for line in told), told
        assert not (tmp_path / "out").exists()

    def test_N5_mistakes_of_all_variants_are_told_together(self, study: Callable[..., Path], tmp_path: Path) -> None:
        axes = {f"{TUNE}.tuner": ["lora", {"name": "lora", "ranks": 4}, {"name": "lora", "rank": "many"}]}
        with pytest.raises(SpecError) as refused:
            prepare(study(axes=axes, set={f"{TUNE}.no_field": 1}), tmp_path / "out")
        told = [str(problem) for problem in refused.value.problems]
        assert any("all 3 variants: " in line and "no_field" in line for line in told), told
        assert any("ranks" in line and "variant 'tuner lora ranks=4'" in line for line in told), told
        assert any("variant 'tuner lora rank=many'" in line for line in told), told

    def test_N5_rows_that_the_study_tells_of_may_come_later(self, study: Callable[..., Path], tmp_path: Path) -> None:
        file = study(set={"stages.align.data.sources": "gone.jsonl"}, rows={"gone.jsonl": 100})
        (tmp_path / "rows.jsonl").write_text("")
        prepared = prepare(file, tmp_path / "out")
        require_runnable(prepared.study, prepared.variants, rows_may_come=True)
        with pytest.raises(SpecError, match=r"gone\.jsonl does not exist"):
            require_runnable(prepared.study, prepared.variants)

    def test_N11_nothing_shared_is_not_told_as_shared(self, study: Callable[..., Path], tmp_path: Path) -> None:
        lines = list(overview(prepare(study(), tmp_path / "out")))
        assert "2 stages to train; 0 are done" in lines

    def test_missing_rows(self, study: Callable[..., Path], tmp_path: Path) -> None:
        file = study(set={"stages.align.data.sources": "gone.jsonl"})
        assert "gone.jsonl" in list(overview(prepare(file, tmp_path / "out")))[-1]
        with pytest.raises(LensmithError, match=r"gone\.jsonl does not exist"):
            ablate(file, tmp_path / "out")


def scored(prepared: Any, scores: dict[str, list[float]], half: float = 5.0) -> None:
    """The summaries that `lensmith eval` would write."""
    for (name, seed), unit in prepared.work.scoring.items():
        for score in unit.scores:
            value = scores[name][prepared.study.seeds.index(seed)]
            write_summary(score.summary, value, (value - half, value + half))


def write_summary(
    path: Path, value: float = 0.0, interval: tuple[float, float] = (0.0, 0.0), full_marks: float = 100.0
) -> None:
    """What `lensmith eval` would write."""
    path.parent.mkdir(parents=True)
    told = {"headline": "m", "score": value, "full_marks": full_marks, "intervals": {"of": {"m": interval}}}
    write_json(path, told)


class TestResults:
    def test_N11_intervals_stay_within_the_scale(self) -> None:
        wide = estimate([90.0, 10.0], limits=(0.0, 100.0))
        assert (wide.low, wide.high) == (0, 100)
        one = estimate([95.0], [(80.0, 110.0)], limits=(0.0, 100.0))
        assert (one.low, one.high) == (80, 100)
        assert estimate([90.0, 10.0]).high > 100

    def test_N11_a_report_keeps_within_the_scale(self, study: Callable[..., Path], tmp_path: Path) -> None:
        prepared = prepare(study(benchmarks=[VQA], seeds=[1, 2], findings=[]), tmp_path / "out")
        (variant,) = prepared.variants
        scored(prepared, {variant.name: [85.0, 2.0]})
        report(prepared)
        text = (tmp_path / "out" / "report" / "report.md").read_text()
        assert "43.5 (0.0 to 100.0)" in text
        assert "Published" not in text

    @pytest.mark.parametrize(
        ("high", "factor", "verdict"),
        [([60, 61, 62], 1.0, "agrees"), ([40, 41, 42], 1.0, "disagrees"), ([40, 60, 50], 1.0, "open"),
         ([49, 50, 51], 0.9, "agrees")],
    )  # fmt: skip
    def test_a_verdict_needs_the_whole_interval(
        self, study: Callable[..., Path], tmp_path: Path, high: list[float], factor: float, verdict: str
    ) -> None:
        file = study(
            axes={f"{TUNE}.tuner.rank": [2, 8]},
            seeds=[1, 2, 3],
            benchmarks=[VQA],
            findings=[{**FINDING, "factor": factor}],
        )
        prepared = prepare(file, tmp_path / "out")
        scored(prepared, {"rank 2": [50, 51, 52], "rank 8": high})
        (found,) = report(prepared).verdicts
        assert (found.verdict, found.pairs) == (verdict, 3)

    def test_with_one_seed_the_questions_decide(self, study: Callable[..., Path], tmp_path: Path) -> None:
        file = study(axes={f"{TUNE}.tuner.rank": [2, 8]}, benchmarks=[VQA], findings=[FINDING])
        for number, (value, verdict) in enumerate(((56, "open"), (58, "agrees"))):
            prepared = prepare(file, tmp_path / f"out{number}")
            scored(prepared, {"rank 2": [50], "rank 8": [value]})  # half-widths of 5: 7.07 together
            assert report(prepared).verdicts[0].verdict == verdict

    def test_files(self, study: Callable[..., Path], tmp_path: Path) -> None:
        entries = [{**VQA, "label": label} for label in ("one", "two", "three")]
        entries = [{**entry, "limit": number + 1} for number, entry in enumerate(entries)]
        file = study(axes={f"{TUNE}.tuner.rank": [2, 8]}, benchmarks=entries, hardware="a100-80g x 8")
        prepared = prepare(file, tmp_path / "out")
        scored(prepared, {"rank 2": [40], "rank 8": [50]})
        result = report(prepared)
        folder = tmp_path / "out" / "report"
        names = {path.name for path in folder.iterdir()}
        figures = {
            f"{name}.{suffix}" for name in ("relative", "by-stages-tune-tuner-rank") for suffix in ("png", "svg")
        }
        assert names == {"report.md", "results.csv", "results.json"} | figures
        text = (folder / "report.md").read_text()
        assert "| rank 2 | 40.0 (35.0 to 45.0) |" in text
        assert "| rank 2 | 80 % | 80 % | 80 % | 80 % |" in text
        assert f"`{TUNE}.tuner.rank`: 2 → 8" in text
        assert result.lines[1].cost.trainable > result.lines[0].cost.trainable
        assert result.lines[0].cost.gpu_hours is not None
        data = json.loads((folder / "results.json").read_text())
        assert [v["scores"]["mean"]["mean"] for v in data["variants"]] == [40, 50]
        assert (folder / "results.csv").read_text().count("\n") == 3

    def test_many_variants_have_a_figure_for_each_axis(self, study: Callable[..., Path], tmp_path: Path) -> None:
        rank, rate = f"{TUNE}.tuner.rank", f"{TUNE}.lr"
        axes = {rank: list(range(1, 9)), rate: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
        prepared = prepare(study(axes=axes, design="single", benchmarks=[VQA]), tmp_path / "out")
        scored(prepared, {v.name: [float(10 + n)] for n, v in enumerate(prepared.variants)})
        report(prepared)
        (tmp_path / "out" / "report" / "relative.svg").touch()  # of a report with fewer variants
        report(prepared)
        drawn = {path.stem for path in (tmp_path / "out" / "report").glob("*.svg")}
        names = ("stages-tune-tuner-rank", "stages-tune-lr")
        assert drawn == {f"{kind}-{name}" for kind in ("relative", "by") for name in names}

    def test_a_curve_of_single_changes_leaves_the_others_out(
        self, study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At the reference's number stands the reference alone, not the mean of all that share it."""
        import matplotlib.axes

        rank = f"{TUNE}.tuner.rank"
        file = study(axes={rank: [2, 8], f"{TUNE}.lr": [0.1, 0.2]}, design="single", benchmarks=[VQA])
        prepared = prepare(file, tmp_path / "out")
        scored(prepared, {"reference": [40], "rank 8": [50], "lr 0.2": [10]})
        curves = []
        monkeypatch.setattr(matplotlib.axes.Axes, "plot", lambda self, x, y, **_: curves.append((x, y)))
        report(prepared)
        assert curves[0] == ([2, 8], [80, 100])

    def test_what_did_not_run_leaves_a_gap(self, study: Callable[..., Path], tmp_path: Path) -> None:
        prepared = prepare(study(axes={f"{TUNE}.tuner.rank": [2, 8]}, benchmarks=[VQA], findings=[FINDING]), tmp_path)
        result = report(prepared)
        assert [dict(line.scores) for line in result.lines] == [{}, {}]
        assert result.verdicts[0].verdict == "open"
        assert "| rank 2 | - |" in (tmp_path / "report" / "report.md").read_text()

    def test_students_interval(self) -> None:
        found = estimate([1.0, 2.0, 3.0])
        assert (found.mean, found.low) == (2.0, pytest.approx(2 - 4.303 * 1 / 3**0.5))
        assert copy.deepcopy(found) == found

    def test_seeds_that_agree_by_luck_claim_no_more_than_their_questions(self) -> None:
        found = estimate([51.0, 51.0, 51.0], [(41.0, 61.0)] * 3)
        assert (found.low, found.high) == (pytest.approx(51 - 10 / 3**0.5), pytest.approx(51 + 10 / 3**0.5))
        assert estimate([1.0, 2.0, 3.0], [(0.9, 1.1), None, None]) == estimate([1.0, 2.0, 3.0])

    def test_the_mean_is_over_full_marks(self, study: Callable[..., Path], tmp_path: Path) -> None:
        """Points and per cent cannot be averaged as they are."""
        prepared = prepare(
            study(benchmarks=[{**VQA, "label": "a"}, {**VQA, "label": "b", "limit": 1}]), tmp_path / "out"
        )
        (unit,) = prepared.work.scoring.values()
        write_summary(unit.scores[0].summary, 60.0, (50.0, 70.0))
        write_summary(unit.scores[1].summary, 1500.0, (1400.0, 1600.0), full_marks=2000.0)
        mean = report(prepared).lines[0].scores["mean"]
        assert mean.mean == pytest.approx((60 + 75) / 2)
        assert mean.high == pytest.approx(mean.mean + (10**2 + 5**2) ** 0.5 / 2)

    def test_seeds_that_are_missing_are_told(self, study: Callable[..., Path], tmp_path: Path) -> None:
        prepared = prepare(study(benchmarks=[VQA], seeds=[1, 2]), tmp_path / "out")
        write_summary(prepared.work.scoring["base", 2].scores[0].summary, 40.0, (30.0, 50.0))
        report(prepared)
        assert "40.0 (30.0 to 50.0) [1 of 2 seeds]" in (tmp_path / "out" / "report" / "report.md").read_text()

    def test_what_could_not_be_scored_is_told_and_tried_again(self, study: Callable[..., Path], tmp_path: Path) -> None:
        prepared = prepare(study(benchmarks=[VQA]), tmp_path / "out")
        (unit,) = prepared.work.scoring.values()
        summary = unit.scores[0].summary
        summary.parent.mkdir(parents=True)
        write_json(summary, {"score": None, "unscored": "the labels are not there"})
        assert (unit.ended, unit.done) == (True, False)
        report(prepared)
        assert (
            "Not scored (1 runs): vqa: the labels are not there"
            in (tmp_path / "out" / "report" / "report.md").read_text()
        )
        assert "--suite" in unit.arguments()
