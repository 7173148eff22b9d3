"""When a run's files were committed, and what that costs."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from el4ner_ray.accounting import take_stock
from el4ner_ray.sink import ANNOTATIONS, Place, commit, file_name, read_summary


def seconds(output: Path, again: Path) -> float:
    """Seconds to commit the annotation files of `output` into the folder `again`, emptied before, one after another.

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
    shutil.rmtree(again, ignore_errors=True)
    began = time.perf_counter()
    new = Place(str(again))
    for rows, summary in files:
        commit(new, file_name(rows), rows, summary, [])
    take_stock(new)
    return time.perf_counter() - began


def middle_half(output: Path) -> tuple[float, float, int]:
    """The commits nearest to a quarter and to three quarters of a run's rows: their times, in seconds since 1970, and
    the number of rows committed after the one and up to the other.

    Raises ValueError when they are the same commit: of less than three files.
    """
    files = sorted((output / ANNOTATIONS).glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    rows = np.cumsum([pq.read_metadata(file).num_rows for file in files])
    first, last = (int(np.abs(rows - share * rows[-1]).argmin()) for share in (0.25, 0.75))
    if first == last:
        raise ValueError(f"{output}: {len(files)} files, which are too few to tell the middle of the run")
    began, ended = (files[number].stat().st_mtime for number in (first, last))
    return began, ended, int(rows[last] - rows[first])
