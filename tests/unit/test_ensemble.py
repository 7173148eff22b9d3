"""When an ensemble's engines start and end. Ray and the engines themselves run in tests/integration/test_python.py."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from el4ner_ray import Ensemble, JobConfig, annotate, job
from el4ner_ray.errors import FatalError, UsageError


class Engines:
    """Stand for `job.engines`; they load until they are let go."""

    def __init__(self) -> None:
        self.loading, self.go = threading.Event(), threading.Event()
        self.started = self.ended = 0

    @contextmanager
    def __call__(self, *_: Any, with_stages: bool) -> Iterator[SimpleNamespace]:
        self.started += 1
        yield SimpleNamespace(wait=self._load)
        self.ended += 1

    def _load(self) -> None:
        self.loading.set()
        assert self.go.wait(20)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    loading = Engines()
    monkeypatch.setattr(job, "engines", loading)
    return loading


@pytest.fixture
def ensemble() -> Iterator[Ensemble]:
    made = Ensemble(JobConfig.load(profile="fake"), say=lambda line: None)
    yield made
    made.close()


def while_it_starts(ensemble: Ensemble, engines: Engines, call: Callable[[], Any]) -> tuple[Ensemble, Any]:
    """What `start` gives in one thread, and what another gets that calls while engines load."""
    with ThreadPoolExecutor(2) as threads:
        starting = threads.submit(ensemble.start)
        assert engines.loading.wait(20)
        called = threads.submit(call)
        engines.go.set()
        return starting.result(), called.result()


def test_threads_may_start_one_ensemble(ensemble: Ensemble, engines: Engines) -> None:
    first, second = while_it_starts(ensemble, engines, ensemble.start)
    assert first is second is ensemble
    assert engines.started == 1


def test_what_another_thread_starts_is_closed_when_it_has_started(ensemble: Ensemble, engines: Engines) -> None:
    started, _ = while_it_starts(ensemble, engines, ensemble.close)
    assert started is ensemble
    assert engines.ended == engines.started == 1
    with pytest.raises(FatalError, match="not running"):
        ensemble.prepare([])
    assert ensemble.start() is ensemble  # and may start again
    assert engines.started == 2


def test_closing_between_two_looks_at_the_stages_is_told_as_closing(
    monkeypatch: pytest.MonkeyPatch, ensemble: Ensemble, engines: Engines
) -> None:
    class Closing:
        """The key of loaded stages; another thread closes while it is compared."""

        def __ne__(self, _: object) -> bool:
            ensemble.close()
            return False

    engines.go.set()
    ensemble.start()
    monkeypatch.setattr(ensemble, "_last", (SimpleNamespace(key=Closing()), None))
    monkeypatch.setattr(ensemble, "prepare", lambda *_: SimpleNamespace(key=Closing()))
    with pytest.raises(FatalError, match="was closed"):
        ensemble.annotate(["Anna met Ben."], [])
    assert ensemble._last is None


def test_texts_may_come_from_an_iterator(monkeypatch: pytest.MonkeyPatch, ensemble: Ensemble, engines: Engines) -> None:
    async def unchanged(texts: Sequence[str]) -> list[str]:
        return list(texts)

    engines.go.set()
    ensemble.start()
    monkeypatch.setattr(ensemble, "prepare", lambda *_: SimpleNamespace(key="pool"))
    monkeypatch.setattr(ensemble, "_last", (SimpleNamespace(key="pool"), SimpleNamespace(annotate=unchanged)))
    texts = ["Anna met Ben.", "Ben left."]
    assert list(ensemble.annotate(iter(texts), [])) == texts
    with pytest.raises(UsageError, match=r"texts\[1\]: is a NoneType"):
        ensemble.annotate(iter(["Anna", None]), [])  # type: ignore[list-item]


def test_names_of_columns_do_not_steer_the_terminal(ensemble: Ensemble) -> None:
    dataset: Any = SimpleNamespace(schema=lambda: pa.schema([("n\n\x1b[2J", pa.string())]))
    with pytest.raises(UsageError, match="there is no column 'text'") as refused:
        annotate(dataset, ensemble, [])
    assert str(refused.value).isprintable()
