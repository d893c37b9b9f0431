"""Requests that nobody would write, made from the server's own description of what it takes."""

from __future__ import annotations

from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")


def test_no_request_breaks_the_server(server: Any) -> None:
    """Requests that fit the description and ones that do not: none gets a 5xx, and every answer is described.

    That what fits is taken is not asked for: the description cannot say that speakers alternate.
    """
    import hypothesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        negative_data_rejection,
        response_schema_conformance,
        status_code_conformance,
        unsupported_method,
    )

    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
        negative_data_rejection,
        unsupported_method,
    ]
    schema = schemathesis.openapi.from_url(server.url.removesuffix("/v1") + "/openapi.json")
    seen: dict[int, int] = {}

    def fuzz(operation: Any, mode: GenerationMode) -> None:
        posts = operation.method == "post"

        @hypothesis.settings(
            max_examples=40 if posts else 5,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def one(case: Any) -> None:
            if posts and mode is GenerationMode.POSITIVE:
                case.body = {**case.body, "model": "tiny", "max_tokens": 1, "max_completion_tokens": 1}
                if sum(seen.values()) % 2:  # so that other fields meet a conversation that can be answered
                    case.body["messages"] = [{"role": "user", "content": "Hello"}]
            answer = case.call(timeout=30)
            if posts:
                seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
            case.validate_response(answer, checks=checks)

        one()

    for found in schema.get_all_operations():
        fuzz(found.ok(), GenerationMode.POSITIVE)
        if found.ok().method == "post":  # the others take nothing that could be wrong
            fuzz(found.ok(), GenerationMode.NEGATIVE)
    assert seen[200] > 5, seen
    assert seen[400] > 5, seen
    assert server.process.poll() is None
    assert server.get("/health")["status"] == "ok"
