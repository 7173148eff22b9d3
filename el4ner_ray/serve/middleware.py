"""Around every request: its body is bounded, its answer counted, and nobody may frame or sniff it."""

from __future__ import annotations

import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from el4ner_ray.serve.metrics import Metrics

# As nginx counts clients that did not wait for their answer.
CLIENT_GONE = 499


class BodyLimit:
    """Reads no more of a body than is allowed: 413 beyond, also where a client does not tell the length."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """`limit` in bytes."""
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit or (told.isdecimal() and int(told) > self._limit):
                raise HTTPException(413, f"the body has more than {self._limit} bytes; send fewer texts at a time")
            return message

        await self._app(scope, bounded, send)


class Observed:
    """Counts requests and their time, and sets the headers that all answers have."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Counts into `metrics`."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = CLIENT_GONE, time.perf_counter()  # unless an answer starts

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, receive, seen)
        except Exception:
            status = 500  # what stands around this one answers
            raise
        finally:
            # Paths that nobody serves are the client's invention, and endless.
            route = scope.get("route")
            self._metrics.answered(getattr(route, "path", "other"), status, time.perf_counter() - began)
