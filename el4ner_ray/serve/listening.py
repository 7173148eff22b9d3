"""An HTTP server in the event loop of the API's own replica: nothing stands between the API and its clients."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from el4ner_ray.errors import UsageError

# As in Ray Serve's proxy; uvicorn's 5 s cut off clients that pause between two requests.
_KEEP_ALIVE_SECONDS = 90
# From the start of a connection, or from its last answer, until a whole request is there.
_SECONDS_TO_ASK = 120
# An answer of which a client takes nothing for so long is dropped with its connection.
_SECONDS_TO_READ_ON = 120
# Beyond them uvicorn answers 503 by itself. What requests hold is bounded long before, by sentences.
_CONNECTIONS = 1000


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}"

    def bound(self) -> socket.socket:
        """A socket of this address, to be closed by the caller. Raises UsageError when nothing can listen there."""
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            opened = socket.socket(family, kind, protocol)
            try:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                opened.bind(place)
            except OSError:
                opened.close()
                raise
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "no host can be called that"
            raise UsageError(
                f"--host {self.host} --port {self.port}: {why}; name a free port, and an address of this machine"
            ) from None
        return opened


class Punctual(HttpToolsProtocol):
    """A connection that ends when its next request is not there in time: uvicorn limits only the pause before one.

    Else a thousand clients that send nothing, or a byte now and then, would keep all others out.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Called by uvicorn after each answer."""
        super().on_response_complete()
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(_SECONDS_TO_ASK, self._end_unless_answering)

    def _end_unless_answering(self) -> None:
        if self.cycle and not self.cycle.more_body and not self.cycle.response_complete:
            self._wait_for_request()  # how long an answer takes is limited elsewhere
        else:
            self.transport.close()


class Listener:
    """Answers HTTP with an application until it is closed; `open` makes one."""

    def __init__(self, app: ASGIApp, place: socket.socket, seconds_to_finish: int) -> None:
        """Needs a running event loop. `seconds_to_finish`: what is in flight at the end is broken off after them."""
        config = uvicorn.Config(
            app,
            http=Punctual,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=seconds_to_finish,
            limit_concurrency=_CONNECTIONS,
        )
        self._server = uvicorn.Server(config)
        place.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * _SECONDS_TO_READ_ON)
        )  # of its connections
        place.listen()  # whoever comes before uvicorn has started waits
        self._serving = asyncio.create_task(self._server.serve([place]))

    @classmethod
    async def open(cls, app: ASGIApp, address: Address, seconds_to_finish: int) -> Listener:
        """Listen. One before it that hangs has its port until it is killed, some seconds after its time to finish.

        Raises UsageError when nothing can listen there.
        """
        patiently = AsyncRetrying(
            stop=stop_after_delay(2 * seconds_to_finish),
            wait=wait_fixed(0.5),
            retry=retry_if_exception_type(UsageError),
            reraise=True,
        )
        async for attempt in patiently:
            with attempt:
                return cls(app, address.bound(), seconds_to_finish)
        raise AssertionError("unreachable: tenacity returns or raises")

    @property
    def is_open(self) -> bool:
        """Whether it answers."""
        return not self._serving.done()

    async def close(self) -> None:
        """Take nothing new, and let what is in flight finish."""
        self._server.should_exit = True
        await self._serving
