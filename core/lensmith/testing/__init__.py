"""The conformance kit: does a part do what its interface promises?

On the command line `lensmith plugin test PACKAGE` (or a part's name). In a test file of the package, where pytest runs
one test for each part and check:

    from lensmith.testing import conformance_suite

    TestConformance = conformance_suite("my-package")

(A suite in the author's own file, and not a pytest plugin with an option: it needs no set-up, runs with the package's
other tests, and nobody's pytest loads anything because Lensmith is installed.)

Parts are tested at their smallest, which the spec's classmethod `tiny(folder)` says; `tiny_tokenizer`, `tiny_llama` and
`scatter` help to write one. Importing this package is cheap.
"""

from __future__ import annotations

from lensmith.testing.checks import CHECKS, Check
from lensmith.testing.findings import Finding
from lensmith.testing.kit import Kit
from lensmith.testing.models import tiny_model
from lensmith.testing.suite import conformance_suite
from lensmith.testing.tiny import CHAT_TEMPLATE, scatter, tiny_llama, tiny_tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "CHECKS",
    "Check",
    "Finding",
    "Kit",
    "conformance_suite",
    "scatter",
    "tiny_llama",
    "tiny_model",
    "tiny_tokenizer",
]
