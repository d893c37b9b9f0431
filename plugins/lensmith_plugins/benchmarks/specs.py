"""What a user may say of a benchmark: by whose rules it is asked and scored. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lensmith import BenchmarkSpec, JudgedSpec
from lensmith.interfaces.bounds import Positions, at_most

Repeats = Annotated[int, Field(ge=1), at_most(1000, "each asks the judge about every answer again")]

Upload = Literal["llava", "raw"]
Reading = Literal["paper", "lenient"]


class VqaV2Spec(BenchmarkSpec):
    """VQAv2: open questions about COCO pictures with ten human answers each; scored on val, uploaded on test."""

    upload: Upload = "llava"
    """What becomes of LLaVA's answer lines: `llava`, normalised as LLaVA's converter does before an upload; `raw`, as
    they are. A file in the official format is scored as it is. By default `llava`."""

    revision: Literal["2021", "before-2021"] = "2021"
    """Which revision of the official scorer: since its fix of March 2021 both sides are normalised unless the ten human
    answers are one; before, the prediction always and the human answers in part. By default `2021`."""


class GqaSpec(BenchmarkSpec):
    """GQA testdev-balanced: one-word answers to questions made from scene graphs."""

    upload: Upload = "llava"
    """What becomes of LLaVA's answer lines: `llava`, lower case without trailing periods; `raw`, as they are. By
    default `llava`."""

    choices: bool = False
    """Also score validity and plausibility, which need the official choices file. By default false, as in LLaVA."""

    consistency: bool = False
    """Also score consistency, which needs answers to the entailed questions, balanced or not. By default false."""


class VizWizSpec(BenchmarkSpec):
    """VizWiz-VQA: questions of blind people about their own photographs, some without an answer."""

    upload: Upload = "llava"
    """What becomes of LLaVA's answer lines: `llava`, normalised as before an upload; `raw`, as they are. By default
    `llava`."""


class ScienceQaSpec(BenchmarkSpec):
    """ScienceQA: multiple choice from school books; the papers report the questions with a picture (IMG)."""

    subset: Literal["image", "all"] = "image"
    """Which questions are asked, and which accuracy is the headline: those with a picture, or all of the test split.
    By default `image`."""

    reading: Reading = "paper"
    """How a reply is read: `paper`, by LLaVA's rule, which takes `B`, `B. …` and `The answer is B.`; `lenient`, by what
    it says (`(B)`, `b`, `Answer: B`, the option's text). By default `paper`; a note tells where the two differ."""


class TextVqaSpec(BenchmarkSpec):
    """TextVQA validation 0.5.1: questions about words in pictures, with Rosetta's OCR tokens in the prompt."""

    ocr: bool = True
    """Write the OCR tokens into the prompt as LLaVA-1.5 does; numbers without are not comparable with the paper's. By
    default true."""


class PopeSpec(BenchmarkSpec):
    """POPE: is an object in the picture? Three ways of choosing objects that are not."""

    pairing: Literal["order", "id"] = "order"
    """How replies find their labels: `order`, line by line within a category, as the original and LLaVA do, so that a
    lost line shifts all that follow; `id`, by the question, where one without a reply is wrong. By default `order`."""

    reading: Reading = "paper"
    """How a reply is read: `paper`, by POPE's rule, for which everything is yes in which no `No`, `no` or `not` stands
    alone; `lenient`, by what it says (`NO`, `No!`), and one that says neither is wrong. By default `paper`; a note
    tells where the two differ."""


class MmeSpec(BenchmarkSpec):
    """MME: two yes-or-no questions a picture, ten sub-tasks of perception and four of cognition."""

    pairing: Literal["order", "picture"] = "order"
    """Which two questions are one picture's for acc+: `order`, consecutive lines as in the official tool; `picture`, by
    the picture's file. By default `order`."""

    reading: Reading = "paper"
    """How a reply is read: `paper`, by MME's rule, which looks at the first four characters; `lenient`, by what it says
    (`The answer is yes`). By default `paper`; a note tells where the two differ."""


class MmBenchSpec(BenchmarkSpec):
    """MMBench, English or Chinese: multiple choice that counts only where every rotation of the options is right."""

    matching: Literal["2024-01", "2023-11", "2026-08"] = "2024-01"
    """Which revision of VLMEvalKit's rules turns a reply into a letter: of January 2024, the one nearest to the server
    that LLaVA-1.5 used; its first, of November 2023; or that of August 2026. By default `2024-01`."""

    letters: Literal["rules", "judge"] = "rules"
    """Who reads a reply in which the rules find no letter: nobody, so that it is wrong (`rules`), or another model
    (`judge`). By default `rules`."""

    judge: str = "gpt-3.5-turbo-0613"
    """The judge's model. By default that of VLMEvalKit in January 2024."""

    temperature: float = Field(0.0, ge=0)
    """The judge's temperature. By default 0."""


class SeedSpec(BenchmarkSpec):
    """SEED-Bench 1: multiple choice about pictures (types 1 to 9) and videos (10 to 12, their middle frame)."""

    answers: Literal["letter", "likelihood", "likelihood_per_token"] = "letter"
    """How an answer is found: `letter`, the model is shown the options and says a letter, as in LLaVA; `likelihood`, it
    sees none, and the option whose text is the likeliest answer is taken, as in SEED-Bench's own evaluation of
    InstructBLIP; `likelihood_per_token`, likewise by the mean over tokens, as in its evaluation of LLaVA-1.5 for
    SEED-Bench 2. By default `letter`."""

    matching: Literal["exact", "first_letter"] = "exact"
    """When a reply is right: `exact`, it is the letter and nothing else, as in LLaVA; `first_letter`, its first
    character is, in any case. By default `exact`."""

    reading: Reading = "paper"
    """How a reply is read: `paper`, as `matching` says; `lenient`, by what it says (`(B)`, `B.`, `Answer: B`, the
    option's text). By default `paper`; a note tells where the two differ."""


class PairwiseSpec(JudgedSpec):
    """What benchmarks share whose judge compares an answer with a reference answer."""

    unparsable: Literal["leave_out", "paper"] = "leave_out"
    """What becomes of a judge's reply without two scores: it is listed and left out, or (`paper`) averaged in as -1 and
    -1 as in LLaVA's summary. By default `leave_out`; the paper's numbers are always among the metrics."""

    pairing: Literal["order", "id"] = "order"
    """How questions and answers meet: line by line, as in LLaVA, or by question id. By default `order`."""

    max_tokens: Positions = 1024
    """Longest reply of the judge. By default 1024."""


class LlavaBenchSpec(PairwiseSpec):
    """LLaVA-Bench (In-the-Wild): 60 questions about 24 pictures, judged against text-only GPT-4."""

    judge: str = "gpt-4-0314"
    """The judge's model. By default the paper's."""

    temperature: float = Field(0.2, ge=0)
    """The judge's temperature. By default the paper's, 0.2."""

    repeats: Repeats = 3
    """How often everything is judged; the score is the mean. By default 3, as in the papers."""


class Vicuna80Spec(PairwiseSpec):
    """Vicuna's 80 questions without pictures, judged against reference answers."""

    judge: str = "gpt-4"
    """The judge's model. By default the paper's."""

    temperature: float = Field(0.2, ge=0)
    """The judge's temperature. By default the paper's, 0.2."""

    repeats: Repeats = 1
    """How often everything is judged; the score is the mean. By default 1."""


class MmVetSpec(JudgedSpec):
    """MM-Vet: 218 open questions, each needing several of six capabilities."""

    judge: str = "gpt-4-0613"
    """The judge's model. By default the paper's."""

    temperature: float = Field(0.0, ge=0)
    """The judge's temperature at the first attempt. By default 0."""

    repeats: Repeats = 1
    """How often everything is judged; the score is the mean. By default 1; the paper of MM-Vet takes 5."""

    unparsable: Literal["leave_out", "paper"] = "leave_out"
    """What becomes of an answer whose judge never gave a number between 0 and 1: it is listed and left out, or
    (`paper`) scored 0. By default `leave_out`; the paper's numbers are always among the metrics."""


class MmluSpec(BenchmarkSpec):
    """MMLU: multiple choice of 57 subjects without pictures, by the likelihood of the four letters."""

    shots: Annotated[int, at_most(1000, "each is an example in every prompt")] = Field(5, ge=0)
    """Solved examples in the prompt. By default 5."""

    reading: Reading = "paper"
    """How a letter that a file holds is read, where it holds no likelihoods: `paper`, as it stands; `lenient`, by what
    it says (`(B)`, `B.`). By default `paper`; a note tells where the two differ."""


class VqaSpec(BenchmarkSpec):
    """Your own questions with answers, as JSON lines beside their pictures."""

    suffix: str = "Answer the question using a single word or phrase."
    """Response-format sentence, on a line of its own after the question; empty for none. By default LLaVA's."""

    normalise: Literal["vqa", "evalai", "none"] = "vqa"
    """How answers are made comparable on both sides: as VQA's or EvalAI's scorer, or not beyond case and spaces. By
    default `vqa`."""


class CaptionSpec(BenchmarkSpec):
    """Your own pictures with captions to compare with, as JSON lines or in COCO's format."""

    prompt: str = "Provide a one-sentence caption for the provided image."
    """What the model is asked. By default LLaVA's sentence for COCO captions."""
