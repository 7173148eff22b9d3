"""A run against gold: the ensemble, each model in it, and what each step added or lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from el4ner_ray.core.evaluation import Evaluation, Interval, Score, Typed, evaluate
from el4ner_ray.core.reliability import Reliability, reliability
from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import LabelledText, name_of, read_labelled
from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity, read_account, read_annotations, unfinished

ENSEMBLE, UNION = "ensemble", "union"


class ModelEvaluation(msgspec.Struct, frozen=True):
    """What one model of a run found, and what the types are worth that it voted for itself.

    spans: exact span, whatever the type. micro, its interval, types: exact span and type, as in `Evaluation`; None
    where the model was not asked for the type of every span that it found: what it would have said, nobody knows. Where
    it was asked and abstained, the span is found and its type wrong.
    type_accuracy: of the `type_accuracy_of` spans of the gold that it voted on, whichever model found them, the share
    with a right type; None where there is none.
    votes: the spans that it voted on, of the `put_to_vote` on which any model did. Where these differ, it was asked
    where the others left the vote open: about the harder spans, so that its accuracy compares with no other.
    """

    spans: Score
    micro: Score | None
    micro_f1_interval: Interval | None
    types: dict[str, Score] | None
    type_accuracy: float | None
    type_accuracy_of: int
    votes: int
    put_to_vote: int

    @property
    def asked_everywhere(self) -> bool:
        """Whether it voted wherever any model did."""
        return self.votes == self.put_to_vote

    def to_json(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers, with P, R and F1 beside the counts."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        types = self.types
        return content | {
            "spans": self.spans.to_json(),
            "micro": self.micro and self.micro.to_json(),
            "types": None if types is None else {name: score.to_json() for name, score in types.items()},
        }


class RunEvaluation(msgspec.Struct, frozen=True):
    """A run measured against gold.

    models: by name, those of the run's configuration first and in its order, also those that found nothing.
    union: every candidate with the ensemble's type, before verification or threshold. ensemble: the output.
    """

    models: dict[str, ModelEvaluation]
    union: Evaluation
    ensemble: Evaluation

    def to_json(self) -> dict[str, Any]:
        """All of it by name: each model, `union` and `ensemble`."""
        steps = self.models | {UNION: self.union, ENSEMBLE: self.ensemble}
        return {name: evaluation.to_json() for name, evaluation in steps.items()}


@dataclass
class _OfModel:
    """What one model found and voted, counted over the documents so far."""

    found: dict[str, set[Typed]] = field(default_factory=dict)
    asked: bool = True
    """About each span that it found; where it was not, or abstained, the type in `found` is empty: none of the gold."""
    votes: int = 0
    in_gold: int = 0
    right: int = 0


def evaluate_run(directory: str, gold_source: str, role: str = "gold") -> RunEvaluation:
    """The run measured against gold: each of its models, their union, and the ensemble.

    Documents are matched by id; of those that the gold lacks, no more is kept than their number. Failed ones, and those
    that the run lacks, count as without entities. Raises UsageError where no id of the gold is in the run, or a text
    differs, since its offsets would then mean something else; of a run that is not finished it says so, since that is
    the likely cause. `role` is how messages call the gold, as in `read_labelled`.
    """
    where = name_of(gold_source, role)
    gold = {text.id: text for text in read_labelled(gold_source, role)}
    account = read_account(directory)
    state, names = unfinished(account), account.models if account else ()
    models: dict[str, _OfModel] = defaultdict(_OfModel, {name: _OfModel() for name in names})
    found: dict[str, dict[str, set[Typed]]] = {UNION: {}, ENSEMBLE: {}}
    judged: dict[str, list[tuple[float, bool]]] = {UNION: [], ENSEMBLE: []}
    put_to_vote, ignored, other = 0, 0, ""
    for document in read_annotations(directory):
        candidates = (*document.entities, *document.dropped)
        for model in _named(candidates):
            models[model]  # one that stands in other documents alone is listed, too
        wanted = gold.get(document.doc_id)
        if not wanted:
            ignored, other = ignored + 1, other or document.doc_id
            continue
        _check_text(document, wanted, directory, where, state)
        _count(models, candidates, wanted)
        put_to_vote += sum(bool(candidate.votes) for candidate in candidates)
        for step, entities in ((UNION, candidates), (ENSEMBLE, document.entities)):
            found[step][document.doc_id] = _typed(entities)
            judged[step] += _judged(entities, wanted)
    if not found[ENSEMBLE]:
        ids = f"{next(iter(gold))!r} in the gold, {other!r} in the run"
        raise UsageError(f"{where}: id: none of its ids is in {directory} ({ids}); {state or 'give both the same ids'}")
    typed = {id_: text.typed for id_, text in gold.items()}
    union, ensemble = (
        msgspec.structs.replace(
            evaluate(typed, found[step]), ignored_documents=ignored, reliability=_reliability(judged[step])
        )
        for step in (UNION, ENSEMBLE)
    )
    of_models = {name: _of_model(model, typed, put_to_vote) for name, model in models.items()}
    return RunEvaluation(of_models, union, ensemble)


def _check_text(
    document: AnnotatedDocument, wanted: LabelledText, directory: str, where: str, state: str | None
) -> None:
    if document.status != "failed" and document.text != wanted.text:
        mend = state or "evaluate against the gold of the very texts that were annotated"
        raise UsageError(f"{where}, id {wanted.id!r}: text: differs from that in {directory}; {mend}")


def _named(candidates: Iterable[AnnotatedEntity]) -> dict[str, None]:
    """The models that found any of these or voted on them, in the order in which they are named."""
    return dict.fromkeys(
        model for each in candidates for model in (*each.extracted_by, *(voter for voter, _ in each.votes))
    )


def _count(models: Mapping[str, _OfModel], candidates: Iterable[AnnotatedEntity], gold: LabelledText) -> None:
    """Add what each model found in a document, and how it voted on what any model found."""
    wanted = gold.typed
    spans = {(start, end) for start, end, _ in wanted}
    for candidate in candidates:
        span, votes = (candidate.start, candidate.end), dict(candidate.votes)
        for model, type_ in votes.items():
            models[model].votes += 1
            models[model].in_gold += span in spans
            models[model].right += (*span, type_) in wanted
        for model in candidate.extracted_by:
            models[model].found.setdefault(gold.id, set()).add((*span, votes.get(model) or ""))
            models[model].asked &= model in votes


def _of_model(model: _OfModel, gold: Mapping[str, frozenset[Typed]], put_to_vote: int) -> ModelEvaluation:
    evaluation = evaluate(gold, model.found)
    return ModelEvaluation(
        spans=evaluation.spans,
        micro=evaluation.micro if model.asked else None,
        micro_f1_interval=evaluation.micro_f1_interval if model.asked else None,
        types=evaluation.types if model.asked else None,
        type_accuracy=model.right / model.in_gold if model.in_gold else None,
        type_accuracy_of=model.in_gold,
        votes=model.votes,
        put_to_vote=put_to_vote,
    )


def _reliability(judged: Sequence[tuple[float, bool]]) -> Reliability | None:
    return reliability([score for score, _ in judged], [right for _, right in judged]) if judged else None


def _judged(entities: Iterable[AnnotatedEntity], gold: LabelledText) -> list[tuple[float, bool]]:
    """The score of each entity, and whether it is right."""
    return [(entity.score, (entity.start, entity.end, entity.type) in gold.typed) for entity in entities]


def _typed(entities: Iterable[AnnotatedEntity]) -> set[Typed]:
    return {(entity.start, entity.end, entity.type) for entity in entities}
