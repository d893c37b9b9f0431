"""The benchmarks of this package: those of LLaVA-1.5 and of the scaling study, and two for your own data."""

from __future__ import annotations

from collections.abc import Iterable

from lensmith import Component, Kind, hookimpl

api_version = 1

_HERE = "lensmith_plugins.benchmarks"


def _record(name: str, place: str, spec: str, summary: str, paper: str, example: str = "") -> Component:
    return Component(
        kind=Kind.BENCHMARK,
        name=name,
        spec=f"{_HERE}.specs:{spec}",
        implementation=f"{_HERE}.{place}",
        summary=summary,
        paper=paper,
        example=f"name: {name}\n{example}",
    )


@hookimpl
def lensmith_components() -> Iterable[Component]:
    """The benchmarks of this package."""
    return [
        _record(
            "vqav2",
            "vqav2:VqaV2",
            "VqaV2Spec",
            "open questions about photographs, ten human answers each",
            "VQAv2 (Goyal et al. 2017, arXiv 1612.00837); LLaVA-1.5 (arXiv 2310.03744), Table 3",
            "upload: raw\n",
        ),
        _record(
            "gqa",
            "gqa:Gqa",
            "GqaSpec",
            "one-word answers to compositional questions",
            "GQA (Hudson and Manning 2019, arXiv 1902.09506); LLaVA-1.5 (arXiv 2310.03744), Table 3",
            "consistency: false\n",
        ),
        _record(
            "vizwiz",
            "vizwiz:VizWiz",
            "VizWizSpec",
            "questions of blind people about their photographs",
            "VizWiz (Gurari et al. 2018, arXiv 1802.08218); LLaVA-1.5 (arXiv 2310.03744), Table 3",
        ),
        _record(
            "scienceqa",
            "scienceqa:ScienceQa",
            "ScienceQaSpec",
            "multiple choice from school books, those with a picture (IMG)",
            "ScienceQA (Lu et al. 2022, arXiv 2209.09513); LLaVA-1.5 (arXiv 2310.03744), Table 3",
            "subset: all\n",
        ),
        _record(
            "textvqa",
            "textvqa:TextVqa",
            "TextVqaSpec",
            "questions about words in pictures, OCR tokens in the prompt",
            "TextVQA (Singh et al. 2019, arXiv 1904.08920); LLaVA-1.5 (arXiv 2310.03744), Table 3",
        ),
        _record(
            "pope",
            "pope:Pope",
            "PopeSpec",
            "is it in the picture? Hallucinated objects, three kinds of distractors",
            "POPE (Li et al. 2023, arXiv 2305.10355); LLaVA-1.5 (arXiv 2310.03744), Table 4",
            "pairing: id\n",
        ),
        _record(
            "mme",
            "mme:Mme",
            "MmeSpec",
            "yes or no, ten sub-tasks of perception and four of cognition",
            "MME (Fu et al. 2023, arXiv 2306.13394); LLaVA-1.5 (arXiv 2310.03744), Table 4",
        ),
        _record(
            "mmbench",
            "mmbench:MmBench",
            "MmBenchSpec",
            "multiple choice in every rotation of the options",
            "MMBench (Liu et al. 2023, arXiv 2307.06281); LLaVA-1.5 (arXiv 2310.03744), Table 4",
            "matching: '2024-01'\n",
        ),
        _record(
            "mmbench_cn",
            "mmbench:MmBenchCn",
            "MmBenchSpec",
            "MMBench in Chinese",
            "MMBench (Liu et al. 2023, arXiv 2307.06281); LLaVA-1.5 (arXiv 2310.03744), Table 4",
        ),
        _record(
            "seed",
            "seed:Seed",
            "SeedSpec",
            "multiple choice about pictures and middle frames of videos",
            "SEED-Bench (Li et al. 2023, arXiv 2307.16125); LLaVA-1.5 (arXiv 2310.03744), Table 4",
        ),
        _record(
            "llava_bench",
            "llava_bench:LlavaBench",
            "LlavaBenchSpec",
            "60 open questions, judged against text-only GPT-4",
            "LLaVA (Liu et al. 2023, arXiv 2304.08485), section 5.1; LLaVA-1.5 (arXiv 2310.03744), Table 4",
            "judge: gpt-4-0314\nrepeats: 3\n",
        ),
        _record(
            "mmvet",
            "mmvet:MmVet",
            "MmVetSpec",
            "open questions that need several capabilities, marked by a judge",
            "MM-Vet (Yu et al. 2023, arXiv 2308.02490); LLaVA-1.5 (arXiv 2310.03744), Table 4",
            "repeats: 5\n",
        ),
        _record(
            "vicuna80",
            "vicuna80:Vicuna80",
            "Vicuna80Spec",
            "80 questions without pictures, judged against reference answers",
            "Vicuna (LMSYS, FastChat); the scaling study (Lu et al. 2023, arXiv 2309.09958), Table 5",
        ),
        _record(
            "mmlu",
            "mmlu:Mmlu",
            "MmluSpec",
            "multiple choice of 57 subjects, by the likelihood of letters",
            "MMLU (Hendrycks et al. 2021, arXiv 2009.03300); the scaling study (arXiv 2309.09958), Table 5",
            "shots: 5\n",
        ),
        _record(
            "vqa",
            "vqa_rows:VqaRows",
            "VqaSpec",
            "your own questions with answers: exact match, VQA accuracy, F1",
            "VQA (Antol et al. 2015, arXiv 1505.00468); word F1 of SQuAD (arXiv 1606.05250)",
            "normalise: none\n",
        ),
        _record(
            "caption",
            "caption:Caption",
            "CaptionSpec",
            "your own captioned pictures: BLEU, ROUGE-L, CIDEr",
            "COCO captions (Chen et al. 2015, arXiv 1504.00325); CIDEr (arXiv 1411.5726)",
        ),
    ]
