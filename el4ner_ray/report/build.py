"""A report from a run's folder: one pass over its documents, then the page."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from el4ner_ray.files import write_text
from el4ner_ray.labelled import read_labelled
from el4ner_ray.measure import evaluate_run
from el4ner_ray.report.comparison import Comparison
from el4ner_ray.report.page_data import page_data
from el4ner_ray.report.render import Report, render
from el4ner_ray.report.run_file import Run, read_run
from el4ner_ray.report.sample import Sample, natural
from el4ner_ray.report.shown import show
from el4ner_ray.report.statistics import Statistics, count_failures
from el4ner_ray.results import AnnotatedDocument, read_annotations
from el4ner_ray.sink import ANNOTATIONS, Place


def write_report(directory: str, output: Path, gold_source: str | None = None, sample: int = 2000) -> Report:
    """Write the report of the run in `directory`, a local path or URI, to `output`; returns what it shows.

    `gold_source` marks errors against this gold, as `read_labelled` takes it. The texts of at most `sample` documents
    are in the page, as far as it has room, those of the gold first; all numbers are about the whole run. Holds no text
    but those shown and the gold's. Raises UsageError.
    """
    place = Place(directory)
    run = read_run(place)
    evaluation = evaluate_run(directory, gold_source, "compare").ensemble if gold_source else None
    comparison = Comparison(read_labelled(gold_source, "compare")) if gold_source else None
    statistics, chosen = Statistics(), Sample(sample)
    for document in _documents(directory, place, run):
        statistics.add(document)
        if comparison:
            comparison.add(document)
        showing = partial(comparison.show if comparison else show, document)
        chosen.add(document.doc_id, showing, preferred=comparison is not None and document.doc_id in comparison)
    for doc_id, show_absent in comparison.absent() if comparison else ():
        chosen.add(doc_id, show_absent, preferred=True)
    types = _types(statistics, comparison)
    models = _models(run, statistics)
    report = Report(
        name=posixpath.basename(directory.rstrip("/")) or directory,
        run=run,
        statistics=statistics,
        failures=count_failures(place),
        data=page_data(chosen.documents(), types, models),
        types=types,
        models=models,
        bound=chosen.bound,
        evaluation=evaluation,
        comparison=comparison,
    )
    write_text(output, render(report), "--output")
    return report


def _documents(directory: str, place: Place, run: Run) -> Iterator[AnnotatedDocument]:
    # A corpus without documents leaves no annotation file, which elsewhere means that something is missing.
    if run.documents and run.documents.total == 0 and not place.files(ANNOTATIONS, ".parquet"):
        return iter(())
    return read_annotations(directory)


def _types(statistics: Statistics, comparison: Comparison | None) -> tuple[str, ...]:
    """Sorted, so that runs with the same types have the same colours; those that only votes name come last."""
    seen = set(statistics.types) | (comparison.types if comparison else set())
    return (*sorted(seen, key=natural), *sorted(statistics.voted_types - seen))


def _models(run: Run, statistics: Statistics) -> tuple[str, ...]:
    configured = dict.fromkeys(model.name for model in run.config.models)
    return tuple(configured | dict.fromkeys(sorted(statistics.models)))
