"""What the four asking stages share: the models, the prompts, and the demonstrations of a sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from el4ner_ray.config import JobConfig
from el4ner_ray.core.alignment import align
from el4ner_ray.core.parsing import parse_extraction, parse_list
from el4ner_ray.core.prompting import LabelledSentence, Prompts
from el4ner_ray.demonstrations import DemonstrationIndex
from el4ner_ray.engines.base import Completion, Ensemble, Request
from el4ner_ray.engines.client import ServedEnsemble
from el4ner_ray.labelled import LabelledText
from el4ner_ray.schema import DEMONSTRATIONS, Span
from el4ner_ray.stages.base import Batch

# Later stages go first (lower runs first in vLLM): the prefix that they share is still in the cache.
PRIORITY = {"pre_extract": 3, "extract": 2, "classify": 1, "verify": 0}


Pool = str | Sequence[LabelledText]
"""Labelled sentences, or the folder of an index of them. DEMONSTRATIONS count in their order."""


@dataclass(frozen=True)
class Question:
    """A sentence of a batch and the turns that ask for its entities."""

    row: int
    number: int
    span: Span
    text: str
    turns: tuple[str, ...]


class Asker:
    """Holds the models and the prompts of a job for one stage actor."""

    def __init__(
        self, config: JobConfig, labels: Mapping[str, str], pool: Pool | None, ensemble: Ensemble | None = None
    ) -> None:
        """`pool` is what demonstrations are chosen from; None asks without any, and for a plain list (zero-shot).

        `ensemble` is asked instead of the one behind Ray Serve.
        """
        self.models = config.model_names
        self.labels = tuple(labels)
        self.prompts = Prompts(config.prompts, labels)
        self.ensemble = ensemble or ServedEnsemble(config)
        self._few_shot = pool is not None
        self._shown = DemonstrationIndex.read_pool(pool) if isinstance(pool, str) else pool or ()
        # When one is first chosen: few of a large pool ever are.
        self._demonstration = cache(self._rendered)
        self._answer_tokens = config.limits.answer_tokens if self._few_shot else config.limits.zero_shot_tokens

    def _rendered(self, number: int) -> tuple[str, ...]:
        shown = self._shown[number]
        return self.prompts.demonstration(LabelledSentence(shown.text, shown.mentions))

    def questions(self, batch: Batch) -> list[Question]:
        """The extraction question of every sentence, with its demonstrations, the most similar one last."""
        chosen = batch.read(DEMONSTRATIONS) if self._few_shot else None
        questions = []
        for row, number, span, text in batch.sentences():
            if chosen is None:
                turns = self.prompts.pre_extraction(text)
            else:
                turns = self.prompts.extraction(text, [self._demonstration(i) for i in reversed(chosen[row][number])])
            questions.append(Question(row, number, span, text, turns))
        return questions

    async def extract(self, batch: Batch) -> list[list[dict[str, list[Span]]]]:
        """What each model extracts from each sentence of each row: spans of the row's text, sorted, by model."""
        questions = self.questions(batch)
        stop = "\n" if self._few_shot else "\n\n"
        requests = [
            Request(question.turns, self._answer_tokens, stop, priority=PRIORITY[batch.stage]) for question in questions
        ]
        answers = await asyncio.gather(*(self.ensemble.ask(model, requests, batch.session) for model in self.models))
        spans: list[list[dict[str, list[Span]]]] = [[] for _ in batch.texts]
        for position, question in enumerate(questions):
            by_model = {
                model: self._read_extraction(batch, model, question, completions[position])
                for model, completions in zip(self.models, answers, strict=True)
            }
            spans[question.row].append(by_model)
        return spans

    def _read_extraction(self, batch: Batch, model: str, question: Question, completion: Completion) -> list[Span]:
        ledger = batch.ledgers[question.row]
        ledger.count(model, completion)
        if completion.error:
            ledger.engine_failure(model, completion.error, question.span)
            return []
        parse = parse_extraction if self._few_shot else parse_list
        answer = parse(completion.text, completion.finished)
        if answer.problem:
            ledger.parse_failure(model, answer.problem, completion, question.span)
        spans, missing = align(question.text, answer.surfaces)
        if not completion.merged:
            ledger.usage[model].surfaces += len(answer.surfaces)
            ledger.usage[model].unaligned += len(missing)
        return [Span(question.span.start + span.start, question.span.start + span.end) for span in spans]

    async def choose(
        self, batch: Batch, model: str, asked: Sequence[tuple[Question, tuple[str, ...]]], choices: tuple[str, ...]
    ) -> list[Completion]:
        """One constrained answer for each (question it belongs to, turns)."""
        requests = [Request(turns, choices=choices, priority=PRIORITY[batch.stage]) for _, turns in asked]
        completions = await self.ensemble.ask(model, requests, batch.session)
        for (question, _), completion in zip(asked, completions, strict=True):
            ledger = batch.ledgers[question.row]
            ledger.count(model, completion)
            if completion.error:
                ledger.engine_failure(model, completion.error, question.span)
            elif completion.text not in choices:
                ledger.parse_failure(model, f"not one of {', '.join(choices)}", completion, question.span)
        return completions
