"""The ensemble for people who write Python: engines that run while they are needed, and texts annotated by them."""

from __future__ import annotations

import asyncio
import atexit
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock

from el4ner_ray import job, pipeline
from el4ner_ray.config import JobConfig, check_labels
from el4ner_ray.engines import bundled
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.in_process import InProcess
from el4ner_ray.labelled import Rows
from el4ner_ray.pool import Pool, open_pool
from el4ner_ray.readers import encodable
from el4ner_ray.results import AnnotatedDocuments

PoolSource = str | Path | Rows
"""Labelled sentences: a file, folder or data set as `--pool` takes it, an index built by `el4ner index`, or mappings
like the lines of JSON, `{"text": …, "entities": [{"start": …, "end": …, "type": …}]}`."""


_CLOSED = "the ensemble was closed while it annotated"

# Its engines have names in the Ray job, which is one a process.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Prepared:
    """A pool made ready: its stages, and what tells it from others."""

    config: JobConfig
    steps: list[pipeline.Step]
    key: tuple[str, tuple[tuple[str, str], ...], str]


class Ensemble:
    """The models of a configuration, running. Use it as a context manager, or call `start` and `close`.

    It joins the Ray cluster of this process, else that of `RAY_ADDRESS`, else it starts one on this machine. Engines
    that nobody closes end with the process. Threads may share an ensemble; a process can run one at a time.

    >>> from el4ner_ray import Ensemble, JobConfig
    >>> pool = [{"text": "Anna flew to Oslo.", "entities": [{"start": 0, "end": 4, "type": "person"}]}]
    >>> config = JobConfig.load(profile="fake", demonstrations={"k": 1, "pool_spans": "gold"})
    >>> with Ensemble(config, say=lambda line: None) as ensemble:
    ...     [document] = ensemble.annotate(["Clara Voss left Riga."], pool)
    >>> [(entity.start, entity.end, entity.text, entity.type) for entity in document.entities]
    [(0, 10, 'Clara Voss', 'person'), (16, 20, 'Riga', 'person')]
    """

    def __init__(self, config: JobConfig | None = None, *, say: job.Say | None = None) -> None:
        """`config`: that of the machine's default profile unless given. `say` is told each step in a line; by
        default it writes them to standard error.

        Nothing starts yet. Raises UsageError when a model of the configuration is not ready on this machine.
        """
        self.config = config or JobConfig.load()
        self._say = say or _tell
        job.check_assets(self.config)
        self._running = ExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last: tuple[Prepared, InProcess] | None = None
        # Of start and close. A signal's handler may close what the same thread is starting.
        self._starting = threading.RLock()
        self._preparing = threading.Lock()
        self._changing = threading.Lock()  # of what runs: nothing may be asked of a loop that has been stopped

    def start(self) -> Self:
        """Start the engines, unless they run: seconds to minutes.

        Raises FatalError when a model does not load, or another ensemble runs in this process.
        """
        with self._starting:
            if self._loop is None:
                self._start()
        return self

    def _start(self) -> None:
        if not _one_at_a_time.acquire(blocking=False):
            raise FatalError("another ensemble runs in this process: use that one, or call its close() first")
        self._running.callback(_one_at_a_time.release)
        try:
            # Its stages may never be operators of Ray Data.
            engines = job.engines(self.config, self.config.labels or {}, self._say, with_stages=False)
            self._running.enter_context(engines).wait()
        except BaseException:
            self._running.close()
            raise
        # Of our own: a notebook's loop runs already and must not be blocked.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="el4ner", daemon=True).start()
        self._running.callback(self._loop.call_soon_threadsafe, self._loop.stop)
        # Before Ray's own: what was registered last runs first.
        atexit.register(self._running.close)
        self._running.callback(atexit.unregister, self._running.close)

    def close(self) -> None:
        """End the engines, and the Ray session where `start` began it. What is being annotated ends with FatalError.

        Waits for a `start` that another thread has called.
        """
        with self._starting:
            with self._changing:
                loop, self._loop, self._last = self._loop, None, None
            if loop:
                asyncio.run_coroutine_threadsafe(_end_all(), loop).result()
            self._running.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def annotate(
        self, texts: Iterable[str], pool: PoolSource, labels: Mapping[str, str] | None = None
    ) -> AnnotatedDocuments:
        """The texts with their entities, one document each, in order.

        The stages run in this process, so this suits up to some thousands of texts; for more there are
        `el4ner_ray.annotate` and the command line. The first call with a pool builds its index and loads the embedder.

        Args:
            texts: n strings of any length, never changed; an iterator is read to its end first.
            pool: see `PoolSource`. Its index is kept in the user's cache, and built again when anything it depends
                on has changed.
            labels: entity types with a line of description each ("" for none); unless given, those of the
                configuration, else the types of the pool.

        Returns:
            n documents. `document.text == texts[i]`, and `text[entity.start : entity.end] == entity.text` in code
            points, the end exclusive. `status` is `ok`, or `partial` or `failed` where requests found no answer: why
            is in `error`.

        Raises:
            UsageError: the pool, a label or a text is not what it should be.
            FatalError: the ensemble is not started, or closed meanwhile, or its engines cannot go on.
        """
        if isinstance(texts, str):
            raise UsageError("texts: is one string; give a list of strings")
        texts = list(texts)  # an iterator can be read once, and the check reads it
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UsageError(f"texts[{number}]: is a {type(text).__name__}; give a string")
            if not encodable(text):
                raise UsageError(f"texts[{number}]: has half of a surrogate pair, which is no character; take it out")
        with self._preparing:
            prepared = self.prepare(pool, labels)
            # What the stages hold is large: those of one pool are kept.
            last = self._last  # another thread may close meanwhile, which forgets it
            if last is None or last[0].key != prepared.key:
                last = prepared, InProcess(prepared.steps, prepared.config.limits)
            with self._changing:
                if self._loop is None:
                    raise FatalError(_CLOSED)
                self._last = last
                answer = asyncio.run_coroutine_threadsafe(last[1].annotate(texts), self._loop)
        try:
            return AnnotatedDocuments(answer.result())
        except CancelledError:
            raise FatalError(_CLOSED) from None
        except BaseException:
            answer.cancel()
            raise

    def prepare(self, pool: PoolSource, labels: Mapping[str, str] | None = None) -> Prepared:
        """The stages for a pool; builds its index, and learns from it for the calibrated method, where that is due.

        Arguments and errors as in `annotate`.
        """
        if self._loop is None:
            raise FatalError("the ensemble is not running: use it in a `with` statement, or call its start()")
        indexes = bundled.cache_dir() / "indexes"
        indexes.mkdir(parents=True, exist_ok=True)
        with FileLock(indexes / ".lock"):
            config, opened = self._open(pool, labels)
            config = job.affordable(config, opened, self._say)
            learnt, _ = job.prepare(config, opened, self._say)
        fusion = job.threshold_of(learnt)
        steps = pipeline.method(config, opened.labels, opened.index, fusion)
        return Prepared(config, steps, (opened.hash, tuple(opened.labels.items()), config.method))

    def check(self, pool: PoolSource, labels: Mapping[str, str] | None = None) -> None:
        """Raise UsageError where `annotate` would not take this pool or these labels. Starts and builds nothing."""
        self._open(pool, labels)

    def _open(self, pool: PoolSource, labels: Mapping[str, str] | None) -> tuple[JobConfig, Pool]:
        config = self.config if labels is None else self.config.model_copy(update={"labels": _checked(labels)})
        source = job.absolute(str(pool)) if isinstance(pool, str | Path) else pool
        return config, open_pool(config, source)


async def _end_all() -> None:
    """Cancel all that runs in this loop, and wait until it has ended."""
    running = asyncio.all_tasks() - {asyncio.current_task()}
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _tell(line: str) -> None:
    print(f"el4ner: {line}", file=sys.stderr)


def _checked(labels: Mapping[str, str]) -> dict[str, str]:
    try:
        check_labels(labels)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return dict(labels)
