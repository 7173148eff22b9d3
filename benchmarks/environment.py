"""Where a benchmark ran: the machine, the versions, the commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from el4ner_ray import machine

_CPU_INFO = Path("/proc/cpuinfo")


def environment() -> dict[str, Any]:
    """All of it, as JSON takes it."""
    looked = machine.look()
    versions = machine.versions() | {"numpy": metadata.version("numpy")}
    return {
        "cpu": _cpu(),
        "cores": looked.cores,
        "memory_bytes": looked.memory,
        "gpus": [gpu.name for gpu in looked.gpus],
        "platform": platform.platform(),
        "python": looked.python,
        "versions": dict(sorted(versions.items())),
        "commit": _commit(),
    }


def as_line(content: dict[str, Any]) -> str:
    """The short form, over a table."""
    gpus = f", {', '.join(content['gpus'])}" if content["gpus"] else ""
    return f"{content['cpu']}, {content['cores']} cores{gpus}, commit {content['commit']}"


def to_json(content: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=2)


def _cpu() -> str:
    lines = _CPU_INFO.read_text("utf-8").splitlines() if _CPU_INFO.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """The commit, marked where files differ from it; "unknown" outside of a checkout, and without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"
