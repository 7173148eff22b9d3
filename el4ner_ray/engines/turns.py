"""Engines that are too large to be on one card together take turns: one works, the others sleep (vLLM's sleep mode).

An engine that sleeps keeps its weights in the machine's memory and forgets its prefix cache. A turn goes on while there
are calls, so that what is in flight moves stage by stage: all of it through one model, then through the next.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from filelock import AsyncFileLock

from el4ner_ray.engines.base import Completion, Engine, Request

# As long as it takes, roughly, to exchange two engines: 30 GB of weights each way over the bus. Whoever gives the card
# away sooner pays for more exchanges than it saves waiting.
IDLE_SECONDS = 2.0


class SleepingEngine(Engine, Protocol):
    """An engine that can leave its card to others. It is awake when it is made."""

    async def sleep(self) -> None: ...

    async def wake_up(self) -> None: ...


def lock_file(session: str, cards: Sequence[str]) -> Path:
    """What the engines on these cards of this machine lock, in the Ray session of that name."""
    # Some drivers write a part of a card as MIG-GPU-…/1/0.
    named = "-".join(cards).replace("/", "-") or "none"
    return Path(tempfile.gettempdir()) / f"el4ner-{session}-card-{named}.lock"


class TakingTurns:
    """An engine that is awake only while it holds its card's lock, which ends with its process, however that ends."""

    def __init__(self, engine: SleepingEngine, lock: AsyncFileLock) -> None:
        """The engine is awake and holds the lock; `load` makes both so."""
        self._engine, self._lock = engine, lock
        self._awake, self._calls = True, 0
        self._changing = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._resting: asyncio.Task[None] | None = None

    @classmethod
    async def load(cls, make: Callable[[], SleepingEngine], card: Path) -> TakingTurns:
        """Make the engine in a turn of its own: it needs the card's memory for that."""
        lock = AsyncFileLock(card, thread_local=False)
        await lock.acquire()
        return cls(make(), lock)

    async def generate(self, requests: list[Request]) -> list[Completion]:
        """Answer a batch, in this turn or the next; see `engines.base.Engine`."""
        self._calls += 1
        if self._idle:
            self._idle.cancel()
        try:
            # A caller that gives up must not leave the engine between sleep and waking.
            await asyncio.shield(self._wake())
            return await self._engine.generate(requests)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._start_to_rest)

    async def check_health(self) -> None:
        """Asleep it is as healthy as awake."""
        await self._engine.check_health()

    def shutdown(self) -> None:
        """End the engine. The lock goes with the process, when the card's memory is free."""
        self._engine.shutdown()

    def _start_to_rest(self) -> None:
        self._resting = asyncio.create_task(self._rest())

    async def _wake(self) -> None:
        async with self._changing:
            if not self._awake:
                await self._lock.acquire()
                try:
                    await self._engine.wake_up()
                except BaseException:
                    await self._lock.release()
                    raise
                self._awake = True

    async def _rest(self) -> None:
        async with self._changing:
            if self._awake and not self._calls:
                await self._engine.sleep()
                self._awake = False
                await self._lock.release()
