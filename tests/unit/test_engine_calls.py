"""How requests are put into calls to an engine."""

import asyncio
import logging
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from el4ner_ray import logs
from el4ner_ray.config import load
from el4ner_ray.engines.base import Request
from el4ner_ray.engines.client import ServedEnsemble, calls_of


def asked(*lengths: int) -> list[Request]:
    return [Request(("x" * length,)) for length in lengths]


@pytest.mark.parametrize(
    ("lengths", "calls"),
    [
        ((), []),
        ((1, 1, 1, 1), [3, 1]),
        ((5, 5), [2]),
        ((5, 6), [1, 1]),
        ((30, 1, 30), [1, 1, 1]),  # one that is too long by itself goes alone
    ],
)
def test_calls_are_full(lengths: tuple[int, ...], calls: list[int]) -> None:
    assert [len(call) for call in calls_of(asked(*lengths), 3, 10)] == calls


@given(st.lists(st.integers(0, 20)), st.integers(1, 5), st.integers(1, 40))
def test_every_request_is_in_one_call_in_order_and_within_both_bounds(
    lengths: list[int], most: int, characters: int
) -> None:
    requests = asked(*lengths)
    calls = list(calls_of(requests, most, characters))
    assert [request for call in calls for request in call] == requests
    for call in calls:
        assert 1 <= len(call) <= most
        assert len(call) == 1 or sum(len(request.turns[0]) for request in call) <= characters


class Unanswered:
    """What Serve gives for a call whose replica does not answer."""

    def __init__(self) -> None:
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, bytes]:
        return asyncio.get_running_loop().create_future().__await__()

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize("given_up", [False, True])
def test_a_call_that_nobody_waits_for_any_more_is_cancelled(monkeypatch: pytest.MonkeyPatch, given_up: bool) -> None:
    # Once each try of a call that took too long went on in its replica, beside the next ones.
    limits = {"retries": 0, "request_seconds": 600 if given_up else 0.01}
    ensemble, response = ServedEnsemble(load(profile="fake", overrides={"limits": limits}), "01"), Unanswered()
    handle = SimpleNamespace(generate=SimpleNamespace(remote=lambda _: response))
    monkeypatch.setattr(ServedEnsemble, "_handle", lambda *_: SimpleNamespace(options=lambda session_id: handle))

    async def ask() -> None:
        call = asyncio.create_task(ensemble._call("fake-a", asked(1), "", logs.bound(logging.getLogger())))
        if given_up:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            (answer,) = await call
            assert answer.error.startswith("no answer after 1 tries: TimeoutError")

    asyncio.run(ask())
    assert response.cancelled
