"""What a run's files tell: when they were committed, and what that cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from el4ner_ray.accounting import committed_parts, take_stock
from el4ner_ray.sink import ANNOTATIONS, Place, commit, file_name, read_summary


@dataclass(frozen=True)
class Pace:
    """What a run committed after its first files, until its last ones; in seconds since 1970."""

    sentences: int
    began: float
    ended: float

    @property
    def sentences_per_second(self) -> float:
        return self.sentences / (self.ended - self.began)


def pace(output: Path, first: int, last: int) -> Pace:
    """The pace of a run without its start, which ends with its `first` files, and without its `last` ones.

    Work had been done on what is in flight at the start of what counts; as much must be in flight at its end, else the
    pace is too high: with `last`, nothing ends while the stages run empty. Raises ValueError where nothing is left.
    """
    files = sorted((output / ANNOTATIONS).glob("*.parquet"), key=lambda file: file.stat().st_mtime)
    before, others = files[:first], files[first : len(files) - last]
    if not others:
        raise ValueError(f"{output}: {len(files)} files tell no pace; let them hold fewer documents")
    sentences = sum(read_summary(pq.read_metadata(file)).sentences for file in others)
    return Pace(sentences, before[-1].stat().st_mtime, others[-1].stat().st_mtime)


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
