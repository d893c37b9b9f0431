"""The built-in parts keep what their interfaces promise, by the door that every author's parts go through."""

from __future__ import annotations

from lensmith.testing import conformance_suite

TestConformance = conformance_suite("lensmith")
