"""Processes that tests start end with the test, however it ends, and so does all that they have started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

# In the environment of what a test starts, and so of all that this starts.
MARK = "EL4NER_TEST_MARK"

# Linux sends SIGTERM (1: PR_SET_PDEATHSIG) once the parent is gone; what becomes of the parent before is looked at.
_FOLLOWING = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def following(command: Sequence[str | Path]) -> list[str]:
    """The command, as a child of this process that is sent SIGTERM when this one ends, by SIGKILL, too."""
    return [sys.executable, "-IS", "-c", _FOLLOWING, str(os.getpid()), *map(str, command)]


@contextmanager
def started(
    command: Sequence[str | Path], mark: str, environment: Mapping[str, str] | None = None, **more: Any
) -> Iterator[subprocess.Popen[Any]]:
    """The command as a process of a session of its own, which is ended with the context, as is all that has its mark.

    `environment` is this process's own where it is None; `more` is for `subprocess.Popen`.
    """
    carried = {**(os.environ if environment is None else environment), MARK: mark}
    with subprocess.Popen(following(command), env=carried, start_new_session=True, **more) as process:
        try:
            yield process
        finally:
            kill_all(process, mark)


def kill_all(process: subprocess.Popen[Any], mark: str) -> None:
    """End the process with all of its session and all that has the mark."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for left in marked(mark):
        with suppress(psutil.Error):
            left.kill()


def marked(mark: str) -> list[psutil.Process]:
    """The living processes that have the mark."""
    return [process for process in psutil.process_iter() if _mark(process) == mark]


def _mark(process: psutil.Process) -> str | None:
    try:
        mark: str | None = process.environ().get(MARK)
    except psutil.Error:  # gone, a zombie, or another user's
        return None
    return mark
