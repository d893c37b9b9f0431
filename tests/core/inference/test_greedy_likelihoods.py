"""Whether a scored answer is the greedy one."""

from __future__ import annotations

from typing import Any

import torch

import lensmith
from lensmith import GenerationOptions
from lensmith.data.batch import collate
from lensmith.inference.prompts import Prompts, Question

QUESTION = "What colour is it?"


def test_the_greedy_answer_is_known_from_others(model_spec: dict[str, Any]) -> None:
    model = lensmith.assemble({"model": model_spec})
    model.eval()
    language_model = model.language_model
    sample = Prompts(model).sample(Question.of(None, QUESTION), "red")
    batch = collate([sample], language_model.tokenizer.pad_id)
    learnt = batch.targets != -100
    with torch.no_grad():  # a head that answers "red" and ends: each state is most like its own target's row
        hidden = language_model(model.embed(batch), batch.positions, batch.segments)[learnt]
        assert len(set(batch.targets[learnt].tolist())) == len(hidden)
        language_model.network.lm_head.weight.zero_()
        language_model.network.lm_head.weight[batch.targets[learnt]] = torch.nn.functional.normalize(hidden, dim=-1)
    assert model.generate(None, QUESTION, GenerationOptions(max_new_tokens=9)) == "red"
    scores = model.score([(None, QUESTION)], ["blue", "red", "red red"])[0]
    assert [score.greedy for score in scores] == [False, True, False]
