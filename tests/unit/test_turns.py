"""Engines that take turns on a card: never two awake, every call answered, and none keeps its turn when it dies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import AsyncFileLock

from el4ner_ray.engines import turns
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.turns import TakingTurns, lock_file

pytestmark = pytest.mark.timeout(30)


class Card:
    """Who is awake on it, and how often that changed."""

    def __init__(self) -> None:
        self.awake: set[str] = set()
        self.most = self.changes = 0
        self.memory_taken = False

    def woken(self, name: str) -> None:
        self.awake.add(name)
        self.most = max(self.most, len(self.awake))
        self.changes += 1


class OnCard:
    """An engine that notes on its card when it is awake. It answers with its name."""

    def __init__(self, name: str, card: Card) -> None:
        self.name, self.card = name, card
        card.woken(name)

    async def generate(self, requests: list[Request]) -> list[Completion]:
        assert self.name in self.card.awake
        await asyncio.sleep(0.001)
        assert self.name in self.card.awake
        return [Completion(self.name) for _ in requests]

    async def check_health(self) -> None:
        """Always well."""

    async def sleep(self) -> None:
        self.card.awake.remove(self.name)

    async def wake_up(self) -> None:
        if self.card.memory_taken:
            raise RuntimeError("no memory on the card")
        self.card.woken(self.name)

    def shutdown(self) -> None:
        """Nothing to end."""


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "IDLE_SECONDS", 0.02)


QUESTION = [Request(("?",))]


async def _loaded(names: str, card: Card, file: Path) -> list[TakingTurns]:
    """Engines that start as the pipeline's do, side by side; each is asked for the shared prefix."""

    async def start(name: str) -> TakingTurns:
        engine = await TakingTurns.load(lambda: OnCard(name, card), file)
        await engine.generate(QUESTION)
        return engine

    return list(await asyncio.gather(*map(start, names)))


def test_never_two_are_awake_and_every_call_is_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        card = Card()
        engines = await _loaded("abc", card, tmp_path / "lock")

        async def stage(count: int) -> None:
            # All models at once, and the next question only when all have answered: as a stage does.
            for _ in range(count):
                answers = await asyncio.gather(*(engine.generate(QUESTION) for engine in engines))
                assert [answer[0].text for answer in answers] == ["a", "b", "c"]

        await asyncio.gather(*(stage(3) for _ in range(20)))
        assert card.most == 1
        # 20 batches move through the models together: some exchanges for each of the 3 questions, not for each batch.
        assert card.changes < 40

    asyncio.run(scenario())


def test_one_that_is_idle_leaves_the_card_and_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        card = Card()
        (engine,) = await _loaded("a", card, tmp_path / "lock")
        async with AsyncFileLock(tmp_path / "lock", thread_local=False):
            assert not card.awake
            asking = asyncio.create_task(engine.generate(QUESTION))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asking), 0.2)
        assert [answer.text for answer in await asking] == ["a"]

    asyncio.run(scenario())


def test_a_caller_that_gives_up_leaves_the_engine_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        card = Card()
        (engine,) = await _loaded("a", card, tmp_path / "lock")
        async with AsyncFileLock(tmp_path / "lock", thread_local=False):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.generate(QUESTION), 0.05)
        assert [answer.text for answer in await engine.generate(QUESTION)] == ["a"]
        # And it sleeps again: the lock is not held twice.
        async with AsyncFileLock(tmp_path / "lock", thread_local=False):
            assert not card.awake

    asyncio.run(scenario())


def test_one_that_cannot_wake_up_leaves_the_card_to_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        card = Card()
        (engine,) = await _loaded("a", card, tmp_path / "lock")
        async with AsyncFileLock(tmp_path / "lock", thread_local=False):
            card.memory_taken = True
        with pytest.raises(RuntimeError, match="no memory"):
            await engine.generate(QUESTION)
        card.memory_taken = False
        (other,) = await _loaded("b", card, tmp_path / "lock")
        assert [answer.text for answer in await other.generate(QUESTION)] == ["b"]

    asyncio.run(scenario())


def test_a_process_that_is_killed_leaves_the_card_to_others(tmp_path: Path) -> None:
    file = str(tmp_path / "lock")
    holder = f"from filelock import FileLock; lock = FileLock({file!r}); lock.acquire(); print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()

    async def scenario() -> None:
        loading = asyncio.create_task(_loaded("a", Card(), tmp_path / "lock"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(loading), 0.2)
        process.kill()
        assert await loading

    with process:
        asyncio.run(scenario())


def test_engines_of_other_cards_and_sessions_have_other_locks() -> None:
    assert lock_file("s", ["MIG-GPU-6b1f-22/1/0"]).parent == lock_file("s", ["0"]).parent
    assert len({lock_file("s", ["0"]), lock_file("s", ["1"]), lock_file("s", []), lock_file("t", ["0"])}) == 4
