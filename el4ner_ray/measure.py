"""A run against gold: the ensemble, each model in it, and what each step added or lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from rich.table import Table

from el4ner_ray.core.evaluation import Evaluation, Score, Typed, evaluate
from el4ner_ray.core.reliability import reliability
from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import LabelledText, name_of, read_labelled
from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity, read_account, read_annotations, unfinished
from el4ner_ray.show import on_one_line

ENSEMBLE, UNION = "ensemble", "union"


def evaluate_run(directory: str, gold_source: str, role: str = "gold") -> dict[str, Evaluation]:
    """The run measured against gold: under the name of each model what that model found, `union`, and `ensemble`.

    Models stand in the order of the run's configuration, those that found nothing, too. A model's entities are the
    spans that it found, with its own vote or, where it was not asked, the ensemble's type. Where it was asked and
    abstained, the type is empty, which no type of the gold is: the span is found, its type is wrong. The union holds
    every candidate with the ensemble's type, before verification or threshold. The ensemble is the output. These two
    have scores, and so a `reliability`.

    Documents are matched by id; of those that the gold lacks, no more is kept than their number. Failed ones, and those
    that the run lacks, count as without entities. Raises UsageError where no id of the gold is in the run, or a text
    differs, since its offsets would then mean something else; of a run that is not finished it says so, since that is
    the likely cause. `role` is how messages call the gold, as in `read_labelled`.
    """
    where = name_of(gold_source, role)
    gold = {text.id: text for text in read_labelled(gold_source, role)}
    account = read_account(directory)
    state, models = unfinished(account), account.models if account else ()
    found: dict[str, dict[str, set[Typed]]] = defaultdict(dict, {name: {} for name in models})
    judged: dict[str, list[tuple[float, bool]]] = {UNION: [], ENSEMBLE: []}
    nothing: dict[str, set[Typed]] = {}
    ignored, other = 0, ""
    for document in read_annotations(directory):
        wanted = gold.get(document.doc_id)
        if wanted:
            _check_text(document, wanted, directory, where, state)
            judged[ENSEMBLE] += _judged(document.entities, wanted)
            judged[UNION] += _judged((*document.entities, *document.dropped), wanted)
            nothing[document.doc_id] = set()
        else:
            ignored, other = ignored + 1, other or document.doc_id
        for step, entities in _steps(document).items():
            of_step = found[step]  # a model that found something in other documents alone is listed, too
            if wanted:
                of_step[document.doc_id] = entities
    if not nothing:
        ids = f"{next(iter(gold))!r} in the gold, {other!r} in the run"
        raise UsageError(f"{where}: id: none of its ids is in {directory} ({ids}); {state or 'give both the same ids'}")
    typed = {id_: text.typed for id_, text in gold.items()}
    evaluations = {
        step: msgspec.structs.replace(evaluate(typed, nothing | by_document), ignored_documents=ignored)
        for step, by_document in found.items()
    }
    scored = {
        step: msgspec.structs.replace(
            evaluations.pop(step), reliability=reliability([s for s, _ in of_step], [r for _, r in of_step])
        )
        for step, of_step in judged.items()
    }
    return evaluations | scored


def _check_text(
    document: AnnotatedDocument, wanted: LabelledText, directory: str, where: str, state: str | None
) -> None:
    if document.status != "failed" and document.text != wanted.text:
        mend = state or "evaluate against the gold of the very texts that were annotated"
        raise UsageError(f"{where}, id {wanted.id!r}: text: differs from that in {directory}; {mend}")


def _steps(document: AnnotatedDocument) -> dict[str, set[Typed]]:
    """What each model found, the union, and what was kept of a document."""
    candidates = (*document.entities, *document.dropped)
    found: dict[str, set[Typed]] = defaultdict(set)
    for candidate in candidates:
        votes = {model: type_ or "" for model, type_ in candidate.votes}
        for model in candidate.extracted_by:
            found[model].add((candidate.start, candidate.end, votes.get(model, candidate.type)))
    return found | {UNION: _typed(candidates), ENSEMBLE: _typed(document.entities)}


def _judged(entities: Iterable[AnnotatedEntity], gold: LabelledText) -> list[tuple[float, bool]]:
    """The score of each entity, and whether it is right."""
    return [(entity.score, (entity.start, entity.end, entity.type) in gold.typed) for entity in entities]


def _typed(entities: Iterable[AnnotatedEntity]) -> set[Typed]:
    return {(entity.start, entity.end, entity.type) for entity in entities}


def evaluation_tables(evaluations: Mapping[str, Evaluation]) -> Iterator[Table]:
    """The ensemble by type, then all steps side by side."""
    yield evaluation_table(evaluations[ENSEMBLE], title=ENSEMBLE)
    yield steps_table(evaluations)


def evaluation_table(evaluation: Evaluation, title: str | None = None) -> Table:
    """P, R, F1 and support: all types, spans alone, then each type. The interval is that of the first row's F1."""
    interval = evaluation.micro_f1_interval
    table = Table(title=title)
    table.add_column("entities")
    for name in ("P", "R", "F1", f"{interval.confidence:.0%} interval" if interval else "interval", "support"):
        table.add_column(name, justify="right")
    between = f"{interval.low:.3f} to {interval.high:.3f}" if interval else ""
    _add_rows(table, [("all types", evaluation.micro)], between)
    _add_rows(table, [("span only", evaluation.spans)])
    table.add_section()
    _add_rows(table, evaluation.types.items())
    return table


def steps_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """What each model found, what their union holds, and what verification or fusion left of it."""
    table = Table(title="what each model found, their union, and what was kept")
    table.add_column("entities")
    for name in ("right", "wrong", "P", "R", "F1", "span R", "type accuracy"):
        table.add_column(name, justify="right")
    for step, evaluation in evaluations.items():
        if step == UNION:
            table.add_section()
        micro, accuracy = evaluation.micro, evaluation.type_accuracy
        rates = (micro.precision, micro.recall, micro.f1, evaluation.spans.recall)
        table.add_row(
            on_one_line(step),
            str(micro.true_positives),
            str(micro.false_positives),
            *(f"{rate:.3f}" for rate in rates),
            "" if accuracy is None else f"{accuracy:.3f}",
        )
    return table


def _add_rows(table: Table, scores: Iterable[tuple[str, Score]], interval: str = "") -> None:
    for name, score in scores:
        rates = (f"{rate:.3f}" for rate in (score.precision, score.recall, score.f1))
        table.add_row(on_one_line(name), *rates, interval, str(score.support))
