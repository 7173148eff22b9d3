"""Ending what a run on this machine started and could not end: vLLM's processes outlive a replica that is killed.

Every process of a run inherits an environment variable that names its driver. Processes whose driver is gone belong to
a run that was killed; those of this driver that are left after Ray's shutdown were still starting. A machine sees those
of its containers, too, whose drivers it knows by other ids: they are not looked at.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

MARK = "EL4NER_DRIVER"
_SECONDS_TO_GO = 2.0
_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class Driver:
    """A driver process. Ids are used again, so its start belongs to it: seconds since the machine's, to a hundredth,
    for the time of day may be set while it runs. An id holds in one namespace, told by its inode: a container has its
    own.
    """

    pid: int
    started: float
    namespace: int

    @property
    def mark(self) -> str:
        """How it stands in the environment of what it started."""
        return f"{self.pid}@{self.started}@{self.namespace}"

    @classmethod
    def of(cls, process: psutil.Process) -> Driver:
        """The driver that a process is, by its id in the namespace of this one."""
        return cls(process.pid, round(process.create_time() - psutil.boot_time(), 2), own_namespace())

    @classmethod
    def read(cls, mark: str) -> Driver:
        """The driver of a mark. Raises ValueError where it is none, or of an earlier form."""
        pid, started, namespace = mark.split("@")
        return cls(int(pid), float(started), int(namespace))

    def is_running(self) -> bool:
        """Whether it lives, and is no zombie that waits for its parent."""
        try:
            process = psutil.Process(self.pid)
            return Driver.of(process) == self and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def this_driver() -> Driver:
    """The driver that this process is."""
    return Driver.of(psutil.Process())


def own_namespace() -> int:
    """Inode of the namespace in which this process knows others by their ids; 0 where the system has but one."""
    try:
        return _NAMESPACE.stat().st_ino
    except OSError:
        return 0


def end(of: Callable[[Driver], bool]) -> int:
    """End this user's processes that were started by such drivers; returns how many there were."""
    found = [process for process, driver in _marked() if process.pid != os.getpid() and of(driver)]
    for process in found:
        logger.info("ending process %d", process.pid)
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(found, timeout=_SECONDS_TO_GO)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return len(found)


def _marked() -> Iterator[tuple[psutil.Process, Driver]]:
    """The processes that have a mark, with its driver, if that is of this process's own namespace."""
    here = own_namespace()
    for process in psutil.process_iter():
        try:
            driver = Driver.read(process.environ()[MARK])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended, or is another user's
        except (KeyError, ValueError):
            continue  # it has none, or one that nobody here made
        if driver.namespace == here:
            yield process, driver
