"""What it costs to commit a run's files."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.parquet as pq

from el4ner_ray.accounting import committed_parts, take_stock
from el4ner_ray.sink import ANNOTATIONS, Place, commit, file_name, read_summary


def seconds(output: Path, again: Path) -> float:
    """Seconds to commit the annotation files of `output` into the new folder `again`, one after another.

    That is naming, Parquet, temporary file and rename, and at the end what the driver reads of all files to account for
    every document. Reading the rows is not in it. The files of one run are held in memory.
    """
    place = Place(str(output))
    files = []
    for path in place.files(ANNOTATIONS, ".parquet"):
        with place.open(path) as file:
            table = pq.read_table(file)
        with place.open(path) as file:
            files.append((table, read_summary(pq.read_metadata(file))))
    began = time.perf_counter()
    new = Place(str(again))
    for rows, summary in files:
        commit(new, file_name(rows), rows, summary, [])
    take_stock(new)
    committed_parts(new)
    return time.perf_counter() - began
