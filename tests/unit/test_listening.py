"""The API's own HTTP server: it answers, lets what is in flight finish, and ends what nobody waits for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from el4ner_ray.config import load
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.errors import UsageError
from el4ner_ray.serve.annotator import Annotator
from el4ner_ray.serve.api import create_app
from el4ner_ray.serve.limits import Limits
from el4ner_ray.serve.listening import Address, Listener
from el4ner_ray.serve.metrics import Metrics
from el4ner_ray.serve.service import Service
from tests.conftest import free_port

pytestmark = pytest.mark.timeout(60)


class Waiting:
    """An application, or an ensemble, that has no answer before it is let go."""

    def __init__(self) -> None:
        self.asked, self.go, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.ask("", [], "")
        await PlainTextResponse("done")(scope, receive, send)

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        self.asked.set()
        try:
            await self.go.wait()
        finally:
            self.ended.set()
        return [Completion("none") for _ in requests]


@asynccontextmanager
async def client_of(app: ASGIApp, seconds_to_finish: int = 20) -> AsyncIterator[tuple[httpx.AsyncClient, Listener]]:
    address = Address("127.0.0.1", free_port())
    listener = Listener(app, address, seconds_to_finish)
    async with httpx.AsyncClient(base_url=str(address), timeout=30) as client:
        yield client, listener
    await listener.close()


async def refused(port: int | None) -> None:
    """Return when nobody listens there any more."""
    while True:
        try:
            _, opened = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return
        opened.close()
        await opened.wait_closed()


def test_what_is_in_flight_finishes_and_nothing_new_begins() -> None:
    async def use() -> None:
        waiting = Waiting()
        async with client_of(waiting) as (client, listener):
            assert listener.is_open
            asking = asyncio.create_task(client.get("/"))
            await waiting.asked.wait()
            closing = asyncio.create_task(listener.close())
            await refused(client.base_url.port)
            waiting.go.set()
            assert (await asking).text == "done"
            await closing
            assert not listener.is_open

    asyncio.run(use())


def test_what_takes_too_long_at_the_end_is_broken_off() -> None:
    async def use() -> None:
        waiting = Waiting()
        async with client_of(waiting, seconds_to_finish=1) as (client, listener):
            asking = asyncio.create_task(client.get("/"))
            await waiting.asked.wait()
            await listener.close()
            assert waiting.ended.is_set()
            await asyncio.wait([asking])

    asyncio.run(use())


def test_nobody_works_for_a_client_that_has_gone_away() -> None:
    async def use() -> str:
        waiting, metrics, config = Waiting(), Metrics(), load(profile="fake")
        service = Service(Annotator(config, None, waiting), Limits(), metrics)

        async def health() -> dict[str, str]:
            return {}

        async with client_of(create_app(service, metrics, health, None)) as (client, _):
            body = {"texts": ["Anna left Oslo."], "labels": {"person": "people"}}
            asking = asyncio.create_task(client.post("/v1/annotate", json=body))
            await waiting.asked.wait()
            asking.cancel()
            await waiting.ended.wait()
            assert not waiting.go.is_set()
            # Two more requests on the way: the first one's end is counted before they are answered.
            await client.get("/v1/models")
            return (await client.get("/metrics")).text

    told = asyncio.run(use())
    assert re.search(r'^el4ner_http_requests_total{path="/v1/annotate",status="499"} 1.0$', told, re.MULTILINE)
    assert re.search(r"^el4ner_sentences_in_flight 0.0$", told, re.MULTILINE)


def test_a_taken_port_is_told() -> None:
    address = Address("127.0.0.1", free_port())
    with address.bound() as taken:
        taken.listen()
        with pytest.raises(UsageError, match=f"--port {address.port}: Address already in use"):
            address.bound()
