"""Annotating the failed documents of a run again, and merging the answers into it.

The new answers are collected in an output folder of their own, `DIR/retry/N` (N counts the sessions of the run), which
resumes like any other. Then each annotation file with a failed row is replaced by one with the new row in its place, by
the rename that commits every file: whoever reads the folder sees each row exactly once at any moment. A file's footer
remembers N, so that a merge that was killed goes on where it was.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from el4ner_ray import job, parquet, schema
from el4ner_ray.accounting import Retried, take_stock, together
from el4ner_ray.config import restored
from el4ner_ray.errors import UsageError
from el4ner_ray.output import RETRY, alone, check_fingerprint, read_run, sweep, write_run
from el4ner_ray.pool import is_index, open_pool
from el4ner_ray.results import RUN_FILE
from el4ner_ray.sink import ANNOTATIONS, ERRORS, FileSummary, Place, commit, file_name, read_summary

Key = tuple[str, int]


def retry(directory: str, config_file: str | None = None, *, say: job.Say = print) -> dict[str, Any]:
    """Annotate the documents of a finished run again of which some part is not ok; returns the new run.json.

    A YAML file lies over the run's own configuration; it can change what decides no annotation (`limits.retries`, …).
    Raises UsageError where the folder holds no finished run, another run writes into it, or the run could not be
    repeated as it was.
    """
    place = Place(job.absolute(directory))
    _run_of(place, directory)  # where there is none, nothing is made
    with alone(place):
        return _retry(place, directory, config_file, say)


def _retry(place: Place, directory: str, config_file: str | None, say: job.Say) -> dict[str, Any]:
    run = _run_of(place, directory)
    if run.get("status") != "finished" or "source" not in run:
        raise UsageError(f"{directory}: its run has not finished; run the same `el4ner annotate` command again first")
    config = restored(run["config"], config_file)
    job.check_assets(config)
    source = run["source"]
    index = job.index_of(place.uri)
    # An index of the run's own serves without the file that it was built from; beside one that was named it is of an
    # earlier run, which `--force` moved aside.
    pool = index if is_index(index) and not is_index(source["pool"]) else source["pool"]
    check_fingerprint(place, run, job.deciding_fields(config, open_pool(config, pool, index)))
    sweep(place)
    number = len(run["sessions"]) + 1
    staged = Place(f"{place.uri}/{RETRY}/{number}")
    retried = Retried.of(place, run.get("columns", {}))
    again = read_run(staged)
    if retried.documents:
        say(f"{len(retried.documents)} documents are not ok and are annotated again")
        again = job.annotate(
            config,
            source["inputs"],
            pool,
            staged.uri,
            limit=source["limit"],
            without=place.uri,
            retried=retried,
            say=say,
        )
    if again is None:
        say("no document has failed")
    else:
        # Also where no document is left that failed: a merge that was killed may lack its last file.
        merge(staged, place, number)
        run["sessions"] += again["sessions"]
        run["preparation"] = together(run.get("preparation", {}), again.get("preparation", {}))
    run |= job.results(take_stock(place), run["sessions"])
    write_run(place, run)
    place.remove(RETRY)
    return run


def _run_of(place: Place, directory: str) -> dict[str, Any]:
    run = read_run(place)
    if run is None:
        raise UsageError(f"{directory}: no {RUN_FILE} in it; give the folder that `el4ner annotate` wrote")
    return run


def merge(staged: Place, place: Place, number: int) -> None:
    """Put the rows of the output folder `staged` in the place of the same rows of `place`; may be called again.

    A row that failed, or that lacks more answers, does not take the place of one that was annotated in part.
    """
    where, costs = dict[Key, str](), FileSummary()
    for path in staged.files(ANNOTATIONS, ".parquet"):
        rows, summary = _read(staged, path)
        where |= dict.fromkeys(_keys(rows), path)
        costs.add(summary)
    files = place.files(ANNOTATIONS, ".parquet")
    first = True
    for path in files:
        rows, summary = _read(place, path)
        wanted = {key: where.pop(key) for key in _keys(rows) if key in where}
        # What the retry cost is told by the first file that it changes.
        summary.add(costs if wanted and first else FileSummary())
        first = first and not wanted
        if wanted and summary.retry != number:
            _replace(staged, wanted, place, path, rows, summary, number)
    if where:
        # A document that could not be read may have been mended since, and be longer than a part.
        new = pa.concat_tables(_taken(staged, where), promote_options="permissive")
        name = file_name(new)
        commit(place, name, new, FileSummary(entities=_entities(new), retry=number), list(_errors(staged, where)))


def _replace(
    staged: Place, wanted: Mapping[Key, str], place: Place, path: str, rows: pa.Table, summary: FileSummary, number: int
) -> None:
    name = posixpath.basename(path)
    errors = _error_rows(place, name)
    wanted = _without_losses(staged, wanted, rows, errors)
    both = pa.concat_tables([rows, *_taken(staged, wanted)], promote_options="permissive")
    # The last row with a key counts; it stands where the first one stood.
    last = {key: row for row, key in enumerate(_keys(both))}
    merged = both.take(pa.array(list(last.values())))
    kept = [error for error in errors if _key(error) not in wanted]
    summary.entities, summary.retry = _entities(merged), number
    commit(place, name, merged, summary, [*kept, *_errors(staged, wanted)])


def _without_losses(
    staged: Place, wanted: Mapping[Key, str], rows: pa.Table, errors: Sequence[Mapping[str, Any]]
) -> dict[Key, str]:
    """`wanted` but for rows of which more was found before: annotated in part, and failed or with fewer answers now.

    `rows` and their `errors` are the old ones.
    """
    failed = {key for table in _taken(staged, wanted) for key in _keys(_of_status(table, "failed"))}
    lacked, lack = _unanswered(errors), _unanswered(_errors(staged, wanted))
    nothing = 0, 0
    lost = {
        key
        for key in _keys(_of_status(rows, "partial"))
        if key in failed or lack.get(key, nothing) > lacked.get(key, nothing)
    }
    return {key: path for key, path in wanted.items() if key not in lost}


def _unanswered(errors: Iterable[Mapping[str, Any]]) -> dict[Key, tuple[int, int]]:
    """How much rows lack: of how many sentences and models some answer, counted in pairs, and how many answers.

    Answers alone would not tell: where models extract nothing from a sentence, nobody is asked about it any more.
    """
    lacking: dict[Key, list[tuple[int, str]]] = defaultdict(list)
    for error in errors:
        if error["kind"] == "engine":
            lacking[_key(error)].append((error["sentence_start"], error["model"]))
    return {key: (len(set(of_row)), len(of_row)) for key, of_row in lacking.items()}


def _of_status(rows: pa.Table, status: str) -> pa.Table:
    return rows.filter(pc.equal(rows.column("status"), status))


def _taken(staged: Place, wanted: Mapping[Key, str]) -> Iterator[pa.Table]:
    for path in sorted(set(wanted.values())):
        rows = _read(staged, path)[0]
        yield rows.filter(pa.array([key in wanted for key in _keys(rows)]))


def _errors(staged: Place, wanted: Mapping[Key, str]) -> Iterator[dict[str, Any]]:
    for path in sorted(set(wanted.values())):
        for error in _error_rows(staged, posixpath.basename(path)):
            if _key(error) in wanted:
                yield error


def _read(place: Place, path: str) -> tuple[pa.Table, FileSummary]:
    with parquet.whole(path), place.open(path) as file:
        rows = parquet.table(file)
        # The other columns go out as the input had them.
        parquet.valid(rows.select(schema.ANNOTATION_SCHEMA.names))
        return rows, read_summary(pq.read_metadata(file))


def _error_rows(place: Place, name: str) -> list[dict[str, Any]]:
    content = place.read(f"{ERRORS}/{name}")
    if content is None:
        return []
    with parquet.whole_errors(f"{place.uri}/{ERRORS}/{name}"):
        rows: list[dict[str, Any]] = parquet.table(pa.BufferReader(content)).to_pylist()
    return rows


def _keys(rows: pa.Table) -> list[Key]:
    return list(zip(rows.column(schema.DOC_ID).to_pylist(), rows.column(schema.PART).to_pylist(), strict=True))


def _key(row: Mapping[str, Any]) -> Key:
    return row[schema.DOC_ID], row[schema.PART]


def _entities(rows: pa.Table) -> int:
    return int(pc.sum(pc.list_value_length(rows.column("entities"))).as_py() or 0)
