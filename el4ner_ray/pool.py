"""The labelled pool of a job: sentences or a ready index, and the label set that comes with it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import ray

from el4ner_ray import pipeline
from el4ner_ray.config import JobConfig
from el4ner_ray.context import overlong
from el4ner_ray.core.prompting import LABEL_RULE, Prompts, is_label
from el4ner_ray.demonstrations import FORMAT, check_whole, read_metadata, write_index
from el4ner_ray.engines import bundled
from el4ner_ray.engines.identity import source_identity
from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import LabelledText, Rows, check_against, labels_of, name_of, read_labelled
from el4ner_ray.sink import FileSummary

logger = logging.getLogger(__name__)

# Gold spans depend on no model, so such an index serves any ensemble.
_NO_EXTRACTION: dict[str, Any] = {
    "models": {}, "chat_templates": [], "answer_tokens": 0, "engine": "", "prompts": "", "labels": {},
}  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """Where the index is or will be, what it is built from, and the label set of the job."""

    index: str
    labels: dict[str, str]
    built_from: dict[str, Any]
    texts: tuple[LabelledText, ...] | None
    """The sentences to index; None when the index is ready."""

    @property
    def hash(self) -> str:
        """SHA-256 of everything the index was built from."""
        return _hash(self.built_from)


def is_index(folder: str) -> bool:
    """Whether a demonstration index lies in the folder."""
    return (Path(folder) / "index.json").is_file()


def open_pool(config: JobConfig, source: str | Rows, index: str | None = None) -> Pool:
    """Read and check the pool; `index` is the folder for its index, unless `source` is one already.

    Without `index` it lies in the user's cache, under a name that depends on all that it is built from. Raises
    UsageError, naming file, line and field, before anything is loaded.
    """
    if isinstance(source, str) and is_index(source):
        built_from = read_metadata(source)
        labels = config.labels or dict.fromkeys(built_from["types"], "")
        _check_names(built_from["types"], source)
        _check_ready(config, source, built_from, labels)
        _check_types(built_from["types"], labels, source)
        pool = Pool(source, labels, built_from, None)
    else:
        texts = read_labelled(source, "pool")
        labels = config.labels or labels_of(texts)
        check_against(texts, labels, source)
        if told := overlong(texts, config, labels):
            logger.warning("%s, %s", name_of(source, "pool"), told)
        built_from = origin(config, texts, labels)
        index = index or str(bundled.cache_dir() / "indexes" / _hash(built_from)[:16])
        folder = Path(index)
        exists = is_index(index)
        if not exists and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"--output {index}: is not an index and not empty; name a new folder")
        # One of another format was built by another version; this job has no other use for it than to replace it.
        up_to_date = exists and read_metadata(index, any_format=True) == built_from
        pool = Pool(index, labels, built_from, None if up_to_date else tuple(texts))
    if pool.texts is None:
        check_whole(pool.index)
    if config.demonstrations.k > pool.built_from["sentences"]:
        raise UsageError(
            f"demonstrations.k: {config.demonstrations.k} demonstrations need as many labelled sentences, "
            f"but {name_of(source, 'pool')} has {pool.built_from['sentences']}; lower k or enlarge the pool"
        )
    return pool


def build(config: JobConfig, pool: Pool, say: Callable[[str], None]) -> FileSummary:
    """Build the pool's index, and tell what the engines did for it; for extracted spans they must be running."""
    texts = list(pool.texts or ())
    costs = FileSummary()
    if config.demonstrations.pool_spans == "extracted":
        say(f"index: zero-shot extraction from {len(texts)} pool sentences")
        surfaces, costs = pipeline.extract_pool(texts, config, pool.labels)
    else:
        surfaces = [[text.text[e.start : e.end] for e in text.entities] for text in texts]
    say(f"index: embedding {sum(map(len, surfaces))} spans")
    # In a worker, whose memory is returned: the driver needs neither torch nor the embedder.
    ray.get(_embed_and_write.options(num_cpus=0.1).remote(pool, surfaces, config.demonstrations.embedder))
    return costs


@ray.remote  # type: ignore[untyped-decorator]  # ray has no type stubs
def _embed_and_write(pool: Pool, surfaces: list[list[str]], embedder: str) -> None:
    from el4ner_ray.text_models import Embedder

    write_index(pool.index, pool.texts or (), surfaces, Embedder(embedder), pool.built_from)


def _hash(built_from: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(built_from, order="sorted")).hexdigest()


def origin(config: JobConfig, texts: list[LabelledText], labels: dict[str, str]) -> dict[str, Any]:
    settings = config.demonstrations
    return {
        "format": FORMAT,
        "sentences": len(texts),
        "types": list(labels_of(texts)),
        "pool": hashlib.sha256(msgspec.msgpack.encode(texts)).hexdigest(),
        "pool_spans": settings.pool_spans,
        "embedder": settings.embedder,
        "embedder_identity": source_identity(settings.embedder),
        **(_extraction(config, labels) if settings.pool_spans == "extracted" else _NO_EXTRACTION),
    }


def _extraction(config: JobConfig, labels: dict[str, str]) -> dict[str, Any]:
    """What extracted spans depend on."""
    told = {m.name: m.chat_template_kwargs for m in config.models if m.chat_template_kwargs}
    return {
        "models": {m.name: source_identity(m.source, m.revision) for m in config.models},
        "chat_templates": [m.name for m in config.models if m.chat_template],
        # Left out where it is empty, so that indexes from before there was such a field are used.
        **({"chat_template_kwargs": told} if told else {}),
        "answer_tokens": config.limits.zero_shot_tokens,
        "engine": config.engine,
        "prompts": Prompts(config.prompts, labels).hash,
        "labels": labels,
    }


def _check_ready(config: JobConfig, folder: str, built_from: dict[str, Any], labels: dict[str, str]) -> None:
    wanted = {
        "embedder": config.demonstrations.embedder,
        "embedder_identity": source_identity(config.demonstrations.embedder),
        "pool_spans": config.demonstrations.pool_spans,
        "engine": config.engine if built_from["pool_spans"] == "extracted" else "",
    }
    for field, value in wanted.items():
        if built_from[field] != value:
            raise UsageError(
                f"--pool {folder}: the index was built with {field} {built_from[field]!r}, this job has {value!r}; "
                "change the configuration or build the index again"
            )
    if config.demonstrations.pool_spans == "extracted":
        now = _extraction(config, labels)
        # An index has a field of its own only where it was not empty.
        fields = dict.fromkeys((*now, "chat_template_kwargs"))
        others = [field for field in fields if built_from.get(field) != now.get(field)]
        if others:
            logger.warning(
                "--pool %s: its spans were extracted with other %s than this job's; demonstrations may suit less well "
                "than those of an index that is built again",
                folder,
                ", ".join(others),
            )


def _check_names(types: list[str], source: str) -> None:
    # Built by an earlier version, or changed since.
    for name in types:
        if not is_label(name):
            raise UsageError(f"--pool {source}: its type {name!r} {LABEL_RULE}; rename it and build the index again")


def _check_types(types: list[str], labels: dict[str, str], source: str) -> None:
    unknown = sorted(set(types) - labels.keys())
    if unknown:
        raise UsageError(
            f"--pool {source}: its type {unknown[0]!r} is not in the label set ({', '.join(labels)}); "
            "add it to labels or take it out of the pool"
        )
