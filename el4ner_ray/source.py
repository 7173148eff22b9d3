"""The corpus as a Ray Data source: a read task for some files, each table of `read_blocks` a block of its own.

Ray 2.60 merges what a read task yields until more than `DataContext.target_max_block_size` bytes are together, and cuts
that at row boundaries from one and a half times as much; with None it merges the whole file, and nothing public turns
this off (`ray.data._internal.output_buffer`). `Dataset.repartition` could cut batches again, but its tasks take a whole
CPU each. So every table leaves here with a column PADDING that brings it just over that size: large enough not to be
merged, too small to be cut. The first stage drops the column; from then on one block goes in and one comes out of each
`map_batches(..., batch_size=None)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from el4ner_ray import logs, schema
from el4ner_ray.config import Limits
from el4ner_ray.corpus import Corpus, CorpusFile, Done, files_together, read_blocks
from el4ner_ray.schema import PADDING, Failure


class CorpusSource(Datasource):  # type: ignore[misc]  # ray has no type stubs
    """Reads a surveyed corpus in blocks of PART_SCHEMA, the extra columns, and PADDING.

    Before the data set is made, `DataContext.target_max_block_size` must be `block_bytes`, and it must be made with
    `override_num_blocks=num_tasks`: with more, Ray cuts each block into as many more.
    """

    def __init__(self, corpus: Corpus, limits: Limits, done: Done | None = None) -> None:
        """`done` are the parts that are left out."""
        super().__init__()
        self._files = files_together(corpus.files)
        self._limits = limits
        # Each task gets its own files. All of them, of an archive of 100,000, take 0.3 s to unpickle.
        self._shared = ray.put((replace(corpus, files=()), done))

    @property
    def num_tasks(self) -> int:
        """Read tasks: one for each of `files_together`."""
        return len(self._files)

    @property
    def block_bytes(self) -> int:
        """See the function of that name."""
        return block_bytes(self._limits)

    def get_name(self) -> str:
        """Name in Ray's progress bars."""
        return "corpus"

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: the survey does not measure texts."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """`num_tasks` of them, whatever the `parallelism`. Raises ValueError unless the context has our block size."""
        size = (data_context or DataContext.get_current()).target_max_block_size
        if size != self.block_bytes:
            raise ValueError(f"DataContext.target_max_block_size is {size}, not CorpusSource.block_bytes")
        return [
            ReadTask(
                partial(_read, self._shared, files, number, self._limits, size),
                # The number of rows is not known: long documents have several.
                BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None),
                per_task_row_limit=per_task_row_limit,
            )
            for number, files in enumerate(self._files)
        ]


def _read(
    shared: ray.ObjectRef, files: Sequence[CorpusFile], task: int, limits: Limits, block_bytes: int
) -> Iterator[pa.Table]:
    corpus, done = ray.get(shared)
    # Numbers that are unique among all tasks, and tell the router which blocks and tasks follow each other.
    batch = task << 32
    for table in read_blocks(corpus, files, limits.batch_documents, limits.part_characters, done, batch):
        _tell_unread(table)
        yield from pad(table, block_bytes)


def _tell_unread(table: pa.Table) -> None:
    unread = table.filter(pc.is_valid(table.column(schema.ERROR))).select([schema.DOC_ID, schema.PART, schema.ERROR])
    for document, part, error in zip(*(column.to_pylist() for column in unread.columns), strict=True):
        logs.tell_failures(document, part, [Failure("input", "read", "", error)])


def block_bytes(limits: Limits) -> int:
    """Twice what the text of a block can need in UTF-8, so that the stages can add to it without a cut."""
    return max(1 << 19, 2 * 4 * 4 * limits.part_characters)


def pad(table: pa.Table, size: int) -> Iterator[pa.Table]:
    """The table with a column PADDING that makes it larger than `size` bytes, and smaller than one and a half times.

    A table that is larger already (bulky extra columns) is halved as often as it takes; one row may be of any size.
    """
    if table.nbytes > size and table.num_rows > 1:
        half = table.num_rows // 2
        yield from pad(table.slice(0, half), size)
        yield from pad(table.slice(half), size)
        return
    missing = max(0, size + 1 - table.nbytes)
    yield table.append_column(PADDING, pa.array([bytes(missing)] + [b""] * (table.num_rows - 1), pa.binary()))
