"""The fault suite in short: what dies during a run costs nothing; a full disk costs a line. The rest: `make faults`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bench import ENGINE_REPLICA, STAGE_ACTOR, Bench, Difference, compare, files, rows

pytestmark = pytest.mark.timeout(1200)

NOTHING = Difference(lost=0, duplicated=0, wrong=0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, gold_index: Path) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"), 64, gold_index)


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> Path:
    output = bench.folder / "undisturbed"
    bench.finish(output, latency_ms=0)
    assert len(rows(output)[0]) == 64
    return output


def test_engines_and_stages_that_die_are_replaced_and_their_work_is_done_again(
    bench: Bench, undisturbed: Path, tmp_path: Path
) -> None:
    with bench.start(tmp_path / "out", latency_ms=2000) as run:
        for title in (ENGINE_REPLICA, STAGE_ACTOR):
            assert run.until("el4ner: engines are ready")
            before = len(files(run.output))
            victims = run.processes(title)[:2]
            assert len(victims) == 2, [process.name() for process in run.processes("")]
            for process in victims:
                process.kill()
            while len(files(run.output)) <= before:
                assert run.sleep(0.5), run.told()
        assert run.wait() == 0, run.told()
    assert compare(run.output, undisturbed) == NOTHING


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the first files only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_ends_the_run_in_a_line_and_more_room_lets_it_go_on(
    bench: Bench, undisturbed: Path, small_disk: Path
) -> None:
    with bench.start(small_disk, latency_ms=0) as run:
        assert run.wait() == 1, run.told()
    last = run.told().splitlines()[-1]
    assert last.startswith("el4ner: the run ended: ")
    assert "cannot be written: No space left on device" in last
    assert len(files(small_disk)) > 0
    committed, doubled = rows(small_disk)
    assert committed
    assert not doubled
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    bench.finish(small_disk, latency_ms=0)
    assert compare(small_disk, undisturbed) == NOTHING
