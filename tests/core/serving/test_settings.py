"""What clients of other servers send: taken where it changes nothing, refused by name where it would."""

from __future__ import annotations

import base64
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server needs lensmith[serve]")

from lensmith.serving.error_answers import unreadable
from lensmith.serving.failures import RequestError
from lensmith.serving.images import picture_bytes
from lensmith.serving.limits import Limits
from lensmith.serving.messages import Shown, dialogue
from lensmith.serving.protocol import ChatRequest
from lensmith.serving.settings import CALLED, HARMLESS, NEUTRAL


def asked(**fields: Any) -> ChatRequest:
    base = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    return ChatRequest.model_validate({**base, **fields})


def refused(**fields: Any) -> str:
    with pytest.raises(RequestError) as caught:
        asked(**fields).refuse_unserved()
    assert caught.value.status == 400
    assert caught.value.code == "unsupported_parameter"
    return str(caught.value)


ACTIVE: dict[str, Any] = {
    "n": 2, "best_of": 3, "guided_choice": ["a", "b"], "guided_json": {"type": "object"}, "guided_regex": "a+",
    "guided_grammar": "root ::= x", "structured_outputs": {"choice": ["a"]}, "response_format": {"type": "json_object"},
    "min_tokens": 5, "ignore_eos": True, "repeat_penalty": 1.1, "repetition_penalty": 1.2, "top_k": 40, "min_p": 0.05,
    "typical_p": 0.9, "frequency_penalty": 0.5, "presence_penalty": 0.5, "logit_bias": {"5": 100}, "logprobs": True,
    "top_logprobs": 3, "tools": [{"type": "function"}], "tool_choice": "required", "functions": [{"name": "f"}],
    "stop_token_ids": [2], "bad_words": ["no"], "allowed_token_ids": [1], "echo": True, "use_beam_search": True,
    "length_penalty": 0.5, "include_stop_str_in_output": True, "skip_special_tokens": False, "chat_template": "{{ x }}",
    "chat_template_kwargs": {"enable_thinking": False}, "continue_final_message": True, "add_generation_prompt": False,
    "truncate_prompt_tokens": 5, "mirostat": 2, "dry_multiplier": 0.8, "xtc_probability": 0.5, "grammar": "root ::= x",
    "json_schema": {"type": "object"}, "samplers": ["top_k"], "n_probs": 5, "dynatemp_range": 0.5, "regex": "a+",
    "ebnf": "root ::= x", "no_stop_trim": True, "lora_path": "x", "num_beams": 4, "no_repeat_ngram_size": 3,
    "reasoning_effort": "high", "verbosity": "low", "modalities": ["audio"], "options": {"num_ctx": 4},
    "format": "json",
    "think": True, "mm_processor_kwargs": {"max_pixels": 100}, "logits_processors": ["x"], "prompt_logprobs": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVE)
def test_E10_a_setting_that_would_change_the_answer_is_refused_by_name(name: str) -> None:
    assert refused(**{name: ACTIVE[name]}).startswith(f"{name} is not served; leave it out")


@pytest.mark.parametrize("name", NEUTRAL)
def test_E10_its_neutral_values_are_taken_and_every_other_is_not(name: str) -> None:
    for value in (None, *NEUTRAL[name]):
        asked(**{name: value}).refuse_unserved()
    if name != "n":  # whose type is looked at before
        refused(**{name: "something else"})
        refused(**{name: {"something": "else"}})


def test_E10_truth_values_are_no_numbers() -> None:
    refused(ignore_eos=0)
    refused(best_of=True)
    refused(top_k=False)


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_E10_what_has_no_say_is_taken(name: str) -> None:
    asked(**{name: "something"}).refuse_unserved()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("temprature", "did you mean temperature?"),
        ("max_token", "did you mean max_tokens?"),
        ("guided_choices", "did you mean guided_choice?"),
        ("max_new_token", "did you mean max_tokens?"),
        ("quxifax", "quxifax is no setting that this server knows; leave it out"),
        *((name, f"{name} is called {CALLED[name]} here") for name in CALLED),
    ],
)
def test_E10_unknown_settings_are_refused_with_what_may_be_meant(name: str, told: str) -> None:
    assert told in refused(**{name: 1})


@pytest.mark.parametrize(
    ("temperature", "do_sample", "fine"),
    [
        (None, False, True),
        (0, False, True),
        (0.5, True, True),
        (None, None, True),
        (0.5, False, False),
        (None, True, False),
        (0, True, False),
    ],
)
def test_E10_do_sample_agrees_with_temperature(temperature: float | None, do_sample: bool | None, fine: bool) -> None:
    request = {"temperature": temperature, "do_sample": do_sample}
    if fine:
        asked(**request).refuse_unserved()
    else:
        assert "do_sample contradicts temperature" in refused(**request)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"content": "x", "name": "Ann", "tool_calls": None, "refusal": None, "function_call": None}, ""),
        ({"content": "x", "tool_calls": []}, ""),
        ({"content": "x", "tool_calls": [{"id": "1"}]}, "messages.0.tool_calls is not served"),
        ({"content": "x", "prefix": True}, "messages.0.prefix is not served"),
        ({"content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}, ""),
        ({"content": [{"type": "text", "text": "x", "weight": 3}]}, "messages.0.content.0.weight"),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:,", "max_pixels": 9}}]}, "image_url.max_pixels"),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]}, ""),
    ],
)
def test_E10_settings_inside_messages(message: dict[str, Any], told: str) -> None:
    fields: dict[str, Any] = {"messages": [{"role": "user", **message}]}
    if told:
        assert told in refused(**fields)
    else:
        asked(**fields).refuse_unserved()


def test_E10_stream_options() -> None:
    asked(stream_options={"include_usage": True, "include_obfuscation": False}).refuse_unserved()
    asked(stream_options={"continuous_usage_stats": False}).refuse_unserved()
    assert "continuous_usage_stats" in refused(stream_options={"continuous_usage_stats": True})


DATA = bytes(range(256)) * 2


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize(
    "written",
    [
        base64.b64encode(DATA).decode(),
        base64.encodebytes(DATA).decode(),
        base64.b64encode(DATA).decode().rstrip("="),
        base64.urlsafe_b64encode(DATA).decode(),
        base64.urlsafe_b64encode(DATA).decode().rstrip("="),
        "\r\n".join(base64.b64encode(DATA).decode()[i : i + 64] for i in range(0, 684, 64)),
    ],
)
def test_E13_base64_as_tools_write_it(written: str, as_text: bool) -> None:
    url = f"data:image/png;base64,{written}"
    part = {"type": "image_url", "image_url": url if as_text else {"url": url}}
    shown = dialogue(asked(messages=[{"role": "user", "content": [part]}]).messages).pictures
    assert picture_bytes(shown, Limits()) == [DATA]


def test_E13_base64_without_its_data_uri() -> None:
    data = b"\xff\xd8\xff\xe0" + DATA
    assert picture_bytes([Shown("here", base64.b64encode(data).decode())], Limits()) == [data]
    with pytest.raises(RequestError, match="not a data URL"):
        picture_bytes([Shown("here", "iVBORw0KGgo")], Limits())


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('{"a": "caf\u00e9"}'.encode("latin-1"), "not UTF-8 (byte 0xe9 at 10)"),
        ('{"a": "caf\u00e9"}'.encode("utf-16"), "not UTF-8 (byte 0xff at 0)"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON that can be read"),
    ],
)
def test_E13_a_body_that_is_not_utf8_is_told_so(body: bytes, told: str) -> None:
    assert told in unreadable(body)
