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
    for operation in schema.get_all_operations():
        for mode in GenerationMode:
            if mode is GenerationMode.NEGATIVE and operation.ok().path in ("/health", "/v1/models"):
                continue  # they take nothing that could be wrong

            @hypothesis.settings(
                max_examples=40,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )
            @hypothesis.given(case=operation.ok().as_strategy(generation_mode=mode))
            def one(case: Any) -> None:
                if isinstance(case.body, dict) and case.body.get("model"):
                    case.body = {**case.body, "model": "tiny", "max_tokens": 1}
                answer = case.call(timeout=30)
                seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
                case.validate_response(answer, checks=checks)

            one()
    assert seen.get(200), seen
    assert seen.get(400), seen
    assert server.process.poll() is None
    assert server.get("/health")["status"] == "ok"
