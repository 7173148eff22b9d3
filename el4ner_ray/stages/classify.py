"""Stage 4: every model types every span; the majority decides."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from el4ner_ray.config import JobConfig
from el4ner_ray.core.parsing import parse_choice
from el4ner_ray.core.prompting import one_line
from el4ner_ray.core.voting import agreement, is_decided, majority
from el4ner_ray.engines.base import Completion, Ensemble
from el4ner_ray.schema import CANDIDATES, DEMONSTRATIONS, QUERY_SPANS, SENTENCES, TYPED, Candidate, Entity, Vote
from el4ner_ray.stages.asking import Asker, Pool, Question
from el4ner_ray.stages.base import Batch, Stage


@dataclass
class _Ballot:
    """The votes on one surface of one sentence; all its mentions there share them."""

    question: Question
    turns: tuple[str, ...]
    votes: list[Vote] = field(default_factory=list)


class Classify(Stage):
    """One constrained answer a surface and model, on the prefix that extraction left in the cache.

    The paper's method asks the last models only about surfaces on which their votes can still change the majority, and
    leaves out what all abstain on. The calibrated one takes all votes as evidence and decides later, also on what the
    models listed without demonstrations alone: nobody is asked about that, so it costs no request.
    """

    name = "classify"
    reads = (SENTENCES, QUERY_SPANS, DEMONSTRATIONS, CANDIDATES)
    writes = TYPED

    def __init__(
        self, config: JobConfig, labels: Mapping[str, str], pool: Pool, ensemble: Ensemble | None = None
    ) -> None:
        """Load prompts and pool. `ensemble` is asked instead of the one behind Ray Serve."""
        self._asker = Asker(config, labels, pool, ensemble)
        self._calibrated = config.method == "calibrated"

    async def run(self, batch: Batch) -> list[list[list[Entity]]]:
        """The typed candidates of each sentence of each row; those on which all models abstained are left out."""
        candidates: list[list[list[Candidate]]] = batch.read(CANDIDATES)
        ballots: dict[tuple[int, int], dict[str, _Ballot]] = {}
        for question in self._asker.questions(batch):
            key = (question.row, question.number)
            ballots[key] = self._ballots(question, candidates[question.row][question.number])
        await self._vote(batch, [ballot for sentence in ballots.values() for ballot in sentence.values()])
        typed = [
            [self._typed(batch.texts[row], found, ballots[row, number]) for number, found in enumerate(candidates[row])]
            for row in range(len(batch.texts))
        ]
        if not self._calibrated:
            return typed
        listed: list[list[list[Candidate]]] = batch.read(QUERY_SPANS)
        return [list(map(with_listed, *of_row)) for of_row in zip(typed, listed, strict=True)]

    def _ballots(self, question: Question, candidates: list[Candidate]) -> dict[str, _Ballot]:
        offset = question.span.start
        surfaces = list(
            dict.fromkeys(one_line(question.text[c.span.start - offset : c.span.end - offset]) for c in candidates)
        )
        return {
            surface: _Ballot(question, self._asker.prompts.classification(question.turns, surfaces, surface))
            for surface in surfaces
        }

    async def _vote(self, batch: Batch, ballots: list[_Ballot]) -> None:
        models = self._asker.models
        first = len(models) if self._calibrated else len(models) // 2 + 1
        await asyncio.gather(*(self._ask(batch, model, ballots) for model in models[:first]))
        for asked, model in enumerate(models[first:], start=first):
            open_ = [ballot for ballot in ballots if not is_decided(ballot.votes, outstanding=len(models) - asked)]
            await self._ask(batch, model, open_)
        for ballot in ballots:
            ballot.votes.sort(key=lambda vote: models.index(vote.model))

    async def _ask(self, batch: Batch, model: str, ballots: list[_Ballot]) -> None:
        asked = [(ballot.question, ballot.turns) for ballot in ballots]
        completions = await self._asker.choose(batch, model, asked, self._asker.labels)
        for ballot, completion in zip(ballots, completions, strict=True):
            ballot.votes.append(self._read(model, completion))

    def _read(self, model: str, completion: Completion) -> Vote:
        label = None if completion.error else parse_choice(completion.text, self._asker.labels)
        if label is None:
            return Vote(model, None, 0.0)
        logprobs = completion.choice_logprobs
        probability = math.exp(logprobs[self._asker.labels.index(label)]) if logprobs else 1.0
        return Vote(model, label, probability, logprobs if self._calibrated else ())

    def _typed(self, text: str, candidates: list[Candidate], ballots: dict[str, _Ballot]) -> list[Entity]:
        entities = []
        for candidate in candidates:
            votes = tuple(ballots[one_line(text[candidate.span.start : candidate.span.end])].votes)
            label = majority(votes)
            if self._calibrated:
                entities.append(Entity(candidate.span, label or "", 0.0, votes, candidate.extracted_by))
            elif label is not None:
                entities.append(Entity(candidate.span, label, agreement(votes, label), votes, candidate.extracted_by))
        return entities


def with_listed(entities: list[Entity], listed: list[Candidate]) -> list[Entity]:
    """The candidates of a sentence with those that were listed without demonstrations, in the order of the text."""
    by_span = {entity.span: entity for entity in entities}
    for candidate in listed:
        entity = by_span.get(candidate.span, Entity(candidate.span, "", 0.0, (), ()))
        by_span[candidate.span] = msgspec.structs.replace(entity, listed_by=candidate.extracted_by)
    return [by_span[span] for span in sorted(by_span)]
