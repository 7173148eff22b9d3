"""The API's own HTTP server: it answers, lets what is in flight finish, and ends what nobody waits for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from el4ner_ray.config import load
from el4ner_ray.engines.base import Completion, Ensemble, Request
from el4ner_ray.errors import UsageError
from el4ner_ray.serve import listening
from el4ner_ray.serve.annotator import Annotator
from el4ner_ray.serve.api import create_app
from el4ner_ray.serve.limits import Limits
from el4ner_ray.serve.listening import Address, Listener, Punctual
from el4ner_ray.serve.metrics import Metrics
from el4ner_ray.serve.service import Service

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
    place = Address("127.0.0.1", 0).bound()
    listener = Listener(app, place, seconds_to_finish)
    async with httpx.AsyncClient(base_url=str(Address(*place.getsockname())), timeout=30) as client:
        yield client, listener
    await listener.close()


async def refused(port: int | None) -> None:
    """Return when nobody listens there any more."""
    while True:
        try:
            _, opened = await asyncio.open_connection("127.0.0.1", port)
            opened.close()
            await opened.wait_closed()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it came while the socket was being closed; the next one is refused
            continue


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
            assert (await asking).status_code == 500

    asyncio.run(use())


def served(ensemble: Ensemble) -> tuple[ASGIApp, Service]:
    config, metrics = load(profile="fake"), Metrics()
    service = Service(Annotator(config, None, ensemble), Limits(), metrics)

    async def health() -> dict[str, str]:
        return {}

    return create_app(service, metrics, health, None), service


BODY = {"texts": ["Anna left Oslo."], "labels": {"person": "people"}}


def test_who_is_broken_off_at_the_end_is_told() -> None:
    async def use() -> tuple[httpx.Response, httpx.Response]:
        waiting = Waiting()
        app, service = served(waiting)
        async with client_of(app) as (client, listener):
            whole = asyncio.create_task(client.post("/v1/annotate", json=BODY))
            stream = asyncio.create_task(client.post("/v1/annotate", json=BODY | {"stream": True}))
            while service.in_flight < 2:
                await asyncio.sleep(0)
            service.finish_within(0.1)
            await listener.close()
            return await whole, await stream

    whole, stream = asyncio.run(use())
    assert whole.status_code == 503
    assert "is being stopped" in whole.json()["error"]["message"]
    *_, last = map(json.loads, stream.text.splitlines())
    assert (last["kind"], last["error"]["code"]) == ("error", "deadline")


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_works_for_a_client_that_has_gone_away(stream: bool) -> None:
    async def use() -> str:
        waiting = Waiting()
        app, service = served(waiting)
        async with client_of(app) as (client, _):
            asking = asyncio.create_task(client.post("/v1/annotate", json=BODY | {"stream": stream}))
            await waiting.asked.wait()
            asking.cancel()
            await waiting.ended.wait()
            assert not waiting.go.is_set()
            while service.in_flight:
                await asyncio.sleep(0)
            # The first one's end is counted before the second of these is answered.
            await client.get("/v1/models")
            return (await client.get("/metrics")).text

    told = asyncio.run(use())
    # A stream's status has been sent when its client goes away.
    status = 200 if stream else 499
    assert re.search(rf'^el4ner_http_requests_total{{path="/v1/annotate",status="{status}"}} 1.0$', told, re.MULTILINE)


def test_a_request_whose_body_breaks_is_answered_all_the_same() -> None:
    """What Serve's proxy raises where it cannot tell whether the client is there."""

    async def use() -> int:
        waiting, sent = Waiting(), []
        waiting.go.set()
        app, _ = served(waiting)
        body = iter([{"type": "http.request", "body": json.dumps(BODY).encode()}])

        async def receive() -> Any:
            for message in body:
                return message
            raise RuntimeError("the proxy does not answer")

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/annotate", "query_string": b"", "headers": headers}
        await app(
            scope | {"http_version": "1.1", "scheme": "http", "server": ("x", 1), "client": ("y", 2)}, receive, send
        )
        return int(sent[0]["status"])

    assert asyncio.run(use()) == 200


ASKED = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234"


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", False),
        (ASKED[:20], False),
        (HALF_A_BODY, True),  # by an application that does not read it
        (ASKED + b"\r\n", True),  # white space before a request that never comes
        (ASKED + ASKED[:20], True),
        (ASKED + HALF_A_BODY, True),
    ],
)
def test_a_connection_whose_request_does_not_come_is_ended(
    sent: bytes, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_SECONDS_TO_ASK", 1.0)

    async def use() -> bytes:
        waiting = Waiting()
        waiting.go.set()
        async with client_of(waiting) as (client, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
            writer.write(sent)
            told = await reader.read()
            writer.close()
            return told

    assert (b"done" in asyncio.run(use())) == answered


def test_a_connection_is_not_ended_while_it_is_answered() -> None:
    async def use() -> str:
        waiting = Waiting()
        async with client_of(waiting) as (client, listener):
            asking = asyncio.create_task(client.get("/"))
            await waiting.asked.wait()
            [connection] = listener._server.server_state.connections
            assert isinstance(connection, Punctual)
            connection._end_unless_answering()  # as when its time to ask is over
            waiting.go.set()
            return (await asking).text

    assert asyncio.run(use()) == "done"


def test_an_answer_that_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_SECONDS_TO_READ_ON", 0.3)
    ended = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await receive()  # the request
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            await asyncio.sleep(0)
        ended.set()

    async def use() -> None:
        async with client_of(endless) as (client, _):
            _, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
            writer.write(ASKED)
            await ended.wait()
            writer.close()

    asyncio.run(use())


def test_the_port_of_one_that_hangs_is_waited_for() -> None:
    async def use() -> bool:
        with Address("127.0.0.1", 0).bound() as taken:
            taken.listen()
            address = Address(*taken.getsockname())
            opening = asyncio.create_task(Listener.open(Waiting(), address, 20))
            await asyncio.wait([opening], timeout=0.1)
            assert not opening.done()
        listener = await opening
        is_open = listener.is_open
        await listener.close()
        return is_open

    assert asyncio.run(use())


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("host.example", "http://host.example:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
    ],
)
def test_an_address_is_shown_as_browsers_open_it(host: str, shown: str) -> None:
    assert str(Address(host, 8000)) == shown


def test_a_taken_port_is_told() -> None:
    with Address("127.0.0.1", 0).bound() as taken:
        taken.listen()
        address = Address(*taken.getsockname())
        with pytest.raises(UsageError, match=f"--port {address.port}: Address already in use"):
            address.bound()


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", ".b"])
def test_a_host_that_cannot_be_is_told(host: str) -> None:
    with pytest.raises(UsageError, match=f"--host {re.escape(host)} --port 8000: "):
        Address(host, 8000).bound()
