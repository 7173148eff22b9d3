"""An HTTP server in the event loop of the API's own replica: nothing stands between the API and its clients."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from el4ner_ray.errors import UsageError

# As in Ray Serve's proxy; uvicorn's 5 s cut off clients that pause between two requests.
_KEEP_ALIVE_SECONDS = 90


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{shown}:{self.port}"

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
        except OSError as error:
            raise UsageError(
                f"--host {self.host} --port {self.port}: {error.strerror}; "
                "name a free port, and an address of this machine"
            ) from None
        return opened


class Listener:
    """Answers HTTP with an application until it is closed."""

    def __init__(self, app: ASGIApp, address: Address, seconds_to_finish: int) -> None:
        """Needs a running event loop. `seconds_to_finish`: what is in flight at the end is broken off after them.

        Raises UsageError when nothing can listen there.
        """
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=seconds_to_finish,
        )
        self._server = uvicorn.Server(config)
        place = address.bound()
        place.listen()  # whoever comes before uvicorn has started waits
        self._serving = asyncio.create_task(self._server.serve([place]))

    @property
    def is_open(self) -> bool:
        """Whether it answers."""
        return not self._serving.done()

    async def close(self) -> None:
        """Take nothing new, and let what is in flight finish."""
        self._server.should_exit = True
        await self._serving
