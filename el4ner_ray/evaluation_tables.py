"""What `el4ner evaluate` prints: the ensemble by type, all steps side by side, and what these numbers cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.table import Table

from el4ner_ray.core.evaluation import Evaluation, Score
from el4ner_ray.measure import ENSEMBLE, UNION, ModelEvaluation, RunEvaluation
from el4ner_ray.show import on_one_line


def evaluation_tables(evaluation: RunEvaluation) -> Iterator[Table]:
    """The ensemble by type, then all steps side by side."""
    yield evaluation_table(evaluation.ensemble, title=ENSEMBLE)
    yield steps_table(evaluation)


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


def steps_table(evaluation: RunEvaluation) -> Table:
    """What each model found, what their union holds, and what verification or fusion left of it.

    What nobody knows of a model, since it was not asked, is blank; `notes` says why. With names of up to 18 characters
    it is 98 columns wide.
    """
    table = Table(title="what each model found, their union, and what was kept", pad_edge=False)
    table.add_column("entities")
    for name in ("right", "wrong", "P", "R", "F1", "span\nP", "span\nR", "span\nF1", "type\nacc.", "of"):
        table.add_column(name, justify="right")
    for name, model in evaluation.models.items():
        _add_step(table, name, model, model.type_accuracy_of)
    table.add_section()
    for name, step in ((UNION, evaluation.union), (ENSEMBLE, evaluation.ensemble)):
        _add_step(table, name, step, step.spans.true_positives)
    return table


def notes(evaluation: RunEvaluation) -> Iterator[str]:
    """Which numbers of `steps_table` are missing, or compare with no other, and why; a line each."""
    partly = [name for name, model in evaluation.models.items() if not model.asked_everywhere]
    blank = [name for name, model in evaluation.models.items() if model.micro is None and name not in partly]
    if partly:
        yield f"{_list(partly)}: asked for a type only where the others disagreed, so its types cannot be compared"
    if blank:
        yield f"{_list(blank)}: not asked for the type of every span found, so P, R and F1 with types are unknown"


def _add_step(table: Table, name: str, step: Evaluation | ModelEvaluation, of: int) -> None:
    """`of`: the spans of the gold that the accuracy of types is about."""
    micro, accuracy = step.micro, step.type_accuracy
    counts = ("", "") if micro is None else (str(micro.true_positives), str(micro.false_positives))
    table.add_row(
        on_one_line(name),
        *counts,
        *(("",) * 3 if micro is None else _rates(micro)),
        *_rates(step.spans),
        "" if accuracy is None else f"{accuracy:.3f}",
        str(of),
    )


def _add_rows(table: Table, scores: Iterable[tuple[str, Score]], interval: str = "") -> None:
    for name, score in scores:
        table.add_row(on_one_line(name), *_rates(score), interval, str(score.support))


def _rates(score: Score) -> tuple[str, str, str]:
    """P, R and F1."""
    return f"{score.precision:.3f}", f"{score.recall:.3f}", f"{score.f1:.3f}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(on_one_line, names))
