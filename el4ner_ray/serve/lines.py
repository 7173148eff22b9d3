"""A stream between the request that tells it and the client who reads it, slowly or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from el4ner_ray.serve.problems import DeadlineError, problem_of


class Lines:
    """Lines of JSON that are kept until they are read, but not for ever."""

    def __init__(self, until: float) -> None:
        """What is unread at `until`, a time of the running event loop, is forgotten: the stream ends with an error."""
        self._unread: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._forgetting = asyncio.get_running_loop().call_at(until, self._forget)

    def tell(self, line: dict[str, Any]) -> None:
        """One more."""
        self._unread.put_nowait(msgspec.json.encode(line) + b"\n")

    def tell_error(self, error: Exception) -> None:
        """What a client may know of what went wrong (`messages.ErrorLine`)."""
        self.tell({"kind": "error", **problem_of(error).body})

    def end(self) -> None:
        """There are no more."""
        self._unread.put_nowait(None)

    async def read(self, task: asyncio.Task[None]) -> AsyncIterator[bytes]:
        """Each, as soon as it is told; ends `task` where the reader ends before it."""
        try:
            while (line := await self._unread.get()) is not None:
                yield line
        finally:
            self._forgetting.cancel()
            task.cancel()

    def _forget(self) -> None:
        while not self._unread.empty():
            self._unread.get_nowait()
        self.tell_error(DeadlineError("the lines were not read in time; read them as they come"))
        self.end()
