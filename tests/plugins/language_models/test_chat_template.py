"""A14: chat templates of strangers are rendered within bounds of time, memory and text; each excess is one line."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lensmith import ConversationError
from lensmith_plugins.language_models.chat_template import render_chat

MESSAGES = [{"role": "user", "content": "Hi <b>"}, {"role": "assistant", "content": "Ho"}]
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
EXCESSES = {
    "power": "{{ 9 ** (9 ** 9) }}",
    "multiplied text": "{{ 'a' * 10**10 }}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i * j %}{% endfor %}{% endfor %}",
    "long output": "{% for i in range(99999) %}{{ 'abcdefghij' * 1000 }}{% endfor %}",
    "endless macro": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "branching macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(80) }}",
    "doubled text": "{% set n = namespace(x='ab') %}{% for i in range(80) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubled list": "{% set n = namespace(x=[1]) %}{% for i in range(80) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "centred": "{{ 'a' | center(10**10) }}",
    "format": "{{ '%10000000000d' % 1 }}",
    "format method": "{{ '{:>10000000000}'.format(1) }}",
    "justified": "{{ 'a'.ljust(10**11) }}",
    "indented": "{{ ('a\n' * 10**6) | indent(10**5) }}",
    "division": "{{ 1 / 0 }}",
    "no such message": "{{ messages[7].content }}",
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "other files": "{% include '/etc/passwd' %}",
    "internals": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "internals of a namespace": "{{ namespace(__class__=1) }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "large range": "{{ range(10**9) | list }}",
    "no template": "{% for %}",
    "its own words": "{{ raise_exception('no\nsystem\nrole') }}",
}


@pytest.mark.parametrize("kind", EXCESSES)
def test_A14_a_template_that_takes_too_much_is_one_line(kind: str) -> None:
    with pytest.raises(ConversationError) as told:
        render_chat(EXCESSES[kind], MESSAGES, reply=True, variables={})
    assert re.match(
        r"the tokenizer's chat template cannot express the messages \(user, assistant\): \S", str(told.value)
    )
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600
    # The next template is none the worse for it.
    assert render_chat(CHATML, MESSAGES[:1], reply=True, variables={}).text == "<|im_start|>user\nHi <b><|im_end|>\n"


def test_A14_it_is_not_tried_again_for_every_row() -> None:
    slow = "{# of its own #}" + EXCESSES["branching macro"]
    spent = []
    for _ in range(12):
        start = time.process_time(), time.monotonic()
        with pytest.raises(ConversationError, match="more than 1 s of processor time"):
            render_chat(slow, MESSAGES, reply=True, variables={})
        spent.append(time.monotonic() - start[1])
    assert sorted(spent)[:10][-1] < spent[0]  # two tries, and ten answers at once


def test_A14_threads_and_forked_processes_have_renderers_of_their_own() -> None:
    def said(number: int) -> str:
        message = {"role": "user", "content": f"row {number}"}
        return render_chat(CHATML, [message], reply=False, variables={}).text

    expected = [f"<|im_start|>user\nrow {n}<|im_end|>\n" for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(said, range(200))) == expected
    child = os.fork()
    if child == 0:
        os._exit(0 if [said(n) for n in range(50)] == expected[:50] else 1)
    assert [said(n) for n in range(200)] == expected
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_A14_what_templates_may_use_is_that_of_transformers() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = (
        "{%- set ns = namespace(n=0) -%}\n{% for m in messages %}\n"
        "  {% if m.role == 'system' %}{% continue %}{% endif %}\n"
        "{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m | tojson }}{{ dict(a=1) | tojson(indent=2) }}{% break %}\n{% endfor %}"
        "{{ tools is none }}{{ documents }}{{ word | upper }}{{ 'x' if missing is defined }}{{ bos_token }}é"
    )
    system = [{"role": "system", "content": "é"}, *MESSAGES]
    made = render_chat(template, system, reply=True, variables={"word": "w", "bos_token": "<s>"})
    theirs, _ = render_jinja_template([system], chat_template=template, word="w", bos_token="<s>")
    assert made.text == theirs[0]
    assert made.reads is not None
    assert {"word", "bos_token", "missing"} <= made.reads


def test_A14_a_checkpoint_with_such_a_template_is_told_of(tiny_language_model: Path, tmp_path: Path) -> None:
    import shutil

    from lensmith_plugins.conversations.specs import TokenizerSpec
    from lensmith_plugins.conversations.tokenizer import TokenizerConversation
    from lensmith_plugins.language_models.tokenizer_loading import load_tokenizer

    shutil.copytree(tiny_language_model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(EXCESSES["multiplied text"])
    tokenizer = load_tokenizer(str(tmp_path / "model"))
    told = TokenizerConversation(TokenizerSpec()).problems(tokenizer)
    assert len(told) == 1
    assert "more than 512 MB" in told[0]
