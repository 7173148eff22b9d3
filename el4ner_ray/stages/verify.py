"""Stage 5: one model, the verifier, says whether each typed span is true; what it calls false is dropped."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from el4ner_ray.config import JobConfig
from el4ner_ray.core.parsing import parse_choice
from el4ner_ray.core.prompting import FALSE, TRUE, one_line
from el4ner_ray.engines.base import Ensemble
from el4ner_ray.schema import DECIDED, DEMONSTRATIONS, SENTENCES, TYPED, Entity
from el4ner_ray.stages.asking import Asker, Pool, Question
from el4ner_ray.stages.base import Batch, Stage


class Verify(Stage):
    """True or false for each (surface, type) of a sentence. No answer is not a false: the entity stays unverified."""

    name = "verify"
    reads = (SENTENCES, DEMONSTRATIONS, TYPED)
    writes = DECIDED

    def __init__(
        self, config: JobConfig, labels: Mapping[str, str], pool: Pool, ensemble: Ensemble | None = None
    ) -> None:
        """Load prompts and pool. `ensemble` is asked instead of the one behind Ray Serve."""
        self._asker = Asker(config, labels, pool, ensemble)
        self._verifier = config.verifier

    async def run(self, batch: Batch) -> list[list[list[Entity]]]:
        """The typed candidates of each sentence of each row; what the verifier calls false is not kept."""
        typed: list[list[list[Entity]]] = batch.read(TYPED)
        asked: list[tuple[Question, tuple[str, ...]]] = []
        entities: list[Entity] = []
        for question in self._asker.questions(batch):
            of_sentence = typed[question.row][question.number]
            for entity, turns in zip(of_sentence, self._turns(question, of_sentence), strict=True):
                asked.append((question, turns))
                entities.append(entity)
        completions = await self._asker.choose(batch, self._verifier, asked, (TRUE, FALSE))
        decided: list[list[list[Entity]]] = [[[] for _ in row] for row in typed]
        for (question, _), entity, completion in zip(asked, entities, completions, strict=True):
            answer = None if completion.error else parse_choice(completion.text, (TRUE, FALSE))
            verified = msgspec.structs.replace(entity, verified=answer == TRUE, kept=answer != FALSE)
            decided[question.row][question.number].append(verified)
        return decided

    def _turns(self, question: Question, entities: list[Entity]) -> list[tuple[str, ...]]:
        prompts, offset = self._asker.prompts, question.span.start
        shown = [one_line(question.text[e.span.start - offset : e.span.end - offset]) for e in entities]
        surfaces = list(dict.fromkeys(shown))
        return [
            prompts.verification(prompts.classification(question.turns, surfaces, surface), surface, entity.label)
            for surface, entity in zip(shown, entities, strict=True)
        ]
