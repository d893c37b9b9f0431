"""The model classes that lmms-eval makes by name. Imported by lmms-eval alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lmms_eval.api import instance as their_instances
from lmms_eval.api.model import lmms

import lensmith
from lensmith import DataError, GenerationOptions, LensmithError
from lensmith.generation import answers
from lensmith.inference.prompts import Question
from lensmith_plugins.lmms_eval.requests import conversation, generation_settings, pictures


class PromptModel(lmms):  # type: ignore[misc]  # lmms-eval is not typed
    """A Lensmith artifact behind lmms-eval's simple interface: a context and pictures for each request.

    Args:
        artifact: what a stage wrote; `pretrained` is the same under the name that lmms-eval's own models use.
        batch_size: answers that grow at the same time; text, as their command line gives it.
        device: where the model goes, e.g. `cuda:1`; by default a GPU if there is one.
        merge: fold adapters into the weights, for speed.
        until: false lets answers run on past a task's `until`, which lmms-eval sets to an empty line where a task has
            none; its own LLaVA does so.
        likelihood: `loss`, minus the log-likelihood, whose least lmms-eval takes for the choice (0.6 and 0.7); `log`
            for versions that take the greatest.
        seed: of sampling, which does not depend on the batch size.

    Raises:
        LensmithError: an argument that there is not.
        ArtifactError: see `lensmith.load`.
    """

    is_simple = True

    def __init__(
        self,
        artifact: str = "",
        pretrained: str = "",
        batch_size: int | str = 8,
        max_batch_size: int | str | None = None,
        device: str | None = None,
        merge: bool = False,
        until: bool = True,
        likelihood: str = "loss",
        seed: int = 0,
        **others: Any,
    ) -> None:
        super().__init__()
        if others:
            raise LensmithError(
                f"model_args {', '.join(others)}: there is no such argument; there are artifact, merge, until,"
                " likelihood and seed"
            )
        if not (artifact or pretrained):
            raise LensmithError("model_args needs artifact=FOLDER, what `lensmith train` wrote")
        if likelihood not in ("loss", "log"):
            raise LensmithError(f"likelihood={likelihood}: it is loss or log")
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 8
        self._until = until
        self._sign = -1.0 if likelihood == "loss" else 1.0
        self._seed = seed
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator  # type: ignore[import-untyped]

            self.accelerator = Accelerator()
            self._rank = self.accelerator.process_index
            self._world_size = self.accelerator.num_processes
            if torch.cuda.is_available():
                torch.cuda.set_device(self.accelerator.local_process_index)
                device = None
        self.model = lensmith.load(artifact or pretrained, merge=bool(merge))
        if device:
            self.model.to(device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers, in the order of the requests.

        Raises:
            DataError: of the first request that cannot be asked.
        """
        asked = [self._asked(request.args) for request in requests]
        said = [""] * len(asked)
        alike: dict[GenerationOptions, list[int]] = {}
        for number, (_, given) in enumerate(asked):
            options = GenerationOptions(**generation_settings(given, obey_until=self._until))
            alike.setdefault(options, []).append(number)
        for options, numbers in alike.items():
            questions = [asked[number][0] for number in numbers]
            seeds = [self._seed + number for number in numbers]
            for place, answer in answers(self.model, questions, options, self.batch_size, seeds):
                if isinstance(answer, DataError):
                    raise DataError(f"{requests[numbers[place]].args[-2:]}: {answer}")
                said[numbers[place]] = answer
        return said

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """How likely each continuation is as the whole answer, its end included, and whether it is the greedy one.

        Requests with one context and pictures share their prefill.

        Raises:
            DataError: a request that cannot be asked, or a continuation without words.
        """
        questions: dict[tuple[Any, ...], int] = {}
        prompts: list[tuple[Any, str]] = []
        candidates: list[list[str]] = []
        places: list[tuple[int, int]] = []
        for request in requests:
            context, continuation, visual, number, task, split = request.args
            document = self._document(task, split, number)
            if not isinstance(continuation, str):
                continuation = str(continuation(document) if callable(continuation) else continuation)
            key = (context, number, task, split)
            if key not in questions:
                questions[key] = len(prompts)
                prompts.append((pictures(visual(document)), context))
                candidates.append([])
            places.append((questions[key], len(candidates[questions[key]])))
            # The conversation writes what stands between a question and its answer.
            candidates[questions[key]].append(continuation.strip())
        scores = self.model.score(prompts, candidates, self.batch_size)
        found = [scores[question][place] for question, place in places]
        return [_passed_on((self._sign * one.log, bool(one.greedy))) for one in found]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not served: raises LensmithError."""
        raise LensmithError("tasks of several rounds (generate_until_multi_round) are not served by Lensmith's models")

    def _asked(self, args: tuple[Any, ...]) -> tuple[Question, dict[str, Any]]:
        """A request's question and its `generation_kwargs`."""
        context, given, visual, number, task, split = args
        return Question(pictures(visual(self._document(task, split, number))), context), given

    def _document(self, task: str, split: str, number: int) -> Any:
        return self.task_dict[task][split][number]


class MessagesModel(PromptModel):
    """The same behind their chat interface: messages with pictures between words, turns and a system text."""

    is_simple = False

    def _asked(self, args: tuple[Any, ...]) -> tuple[Question, dict[str, Any]]:
        _, messages, given, number, task, split = args
        images, turns, system = conversation(messages(self._document(task, split, number)))
        return Question(images, "", turns, system), given


def _passed_on(pair: tuple[float, bool]) -> Any:
    """A likelihood in the form that survives.

    Their evaluator (0.7) turns a pair into text on its way to the task's scoring, but leaves alone what a generation
    result holds.
    """
    unwrap: Callable[[Any], Any] | None = getattr(their_instances, "unwrap_generation_output", None)
    if unwrap is None or unwrap(pair)[0] == pair:
        return pair
    return their_instances.GenerationResult(pair)
