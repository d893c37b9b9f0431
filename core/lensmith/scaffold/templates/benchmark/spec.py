"""How the benchmark is asked and scored (`-o NAME=VALUE`). Every command imports this: no torch here."""

from __future__ import annotations

import json
from pathlib import Path

from lensmith import BenchmarkSpec


class ExamplePartSpec(BenchmarkSpec):
    """Rows `{id, image, question, answer}` as JSON lines; the right answer, and nothing else, is right."""

    suffix: str = "Answer in one word."
    """What ends every question. Default `Answer in one word.`; empty for nothing."""

    @classmethod
    def tiny(cls, folder: Path) -> ExamplePartSpec:
        """Three questions, for the tests: a benchmark writes its official files here."""
        rows = [{"id": n, "question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(3)]
        (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return cls()
