"""Whatever ends a test, or pytest itself, ends what the test has started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, until
from tests.processes import marked, started

SLEEP = "import time; time.sleep(600)"
SLEEPER = [sys.executable, "-c", SLEEP]
FAMILY = [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEPER!r}, start_new_session=True)"]

USE = """
import sys

def test_it(el4ner, monkeypatch):
    monkeypatch.setattr(sys, "executable", {script!r})
    el4ner()
"""


def test_what_a_test_started_ends_with_all_its_own_when_the_test_is_interrupted(tmp_path: Path) -> None:
    mark = str(tmp_path)
    left: list[psutil.Process] = []

    def interrupted() -> None:
        with started(FAMILY, mark):
            until(lambda: len(marked(mark)) == 2, 30)
            left.extend(marked(mark))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not psutil.wait_procs(left, timeout=10)[1]


def test_what_a_test_started_ends_when_pytest_is_killed(tmp_path: Path) -> None:
    mark = str(tmp_path)
    code = f"from tests.processes import started\nwith started({SLEEPER!r}, {mark!r}) as process: process.wait()"
    tests = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    until(lambda: any(process.cmdline() == SLEEPER for process in marked(mark)), 30)
    left = marked(mark)
    tests.kill()
    tests.wait()
    assert not psutil.wait_procs(left, timeout=10)[1]


@pytest.mark.parametrize("how", ["SIGTERM", "time-out"])
def test_a_run_ends_with_the_test_that_waits_for_it(how: str, tmp_path: Path) -> None:
    script, told, file = tmp_path / "sleep.sh", tmp_path / "pid", tmp_path / "test_it.py"
    script.write_text(f"#!/bin/sh\necho $$ > {told}.part && mv {told}.part {told}\nexec sleep 600\n")
    script.chmod(0o755)
    file.write_text(USE.format(script=str(script)))
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", "-p", "tests.conftest"]
    command += ["--timeout", "5" if how == "time-out" else "600", "--rootdir", str(tmp_path), str(file)]
    tests = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(told.exists, 60)
    run = psutil.Process(int(told.read_text()))
    try:
        if how == "SIGTERM":
            tests.send_signal(signal.SIGTERM)
        out, _ = tests.communicate(timeout=60)
        assert not psutil.wait_procs([run], timeout=10)[1], out
        assert tests.returncode == {"SIGTERM": 128 + signal.SIGTERM, "time-out": 1}[how], out
    finally:
        if run.is_running():
            run.kill()
