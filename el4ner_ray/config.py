"""The configuration of a job: one YAML file over a packaged profile, validated before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from el4ner_ray import yaml_files
from el4ner_ray.core.prompting import LABEL_RULE, is_label
from el4ner_ray.errors import UsageError
from el4ner_ray.languages import LANGUAGE_CODE, known, tagger_for
from el4ner_ray.machine import has_gpu
from el4ner_ray.yaml_files import RepeatedYamlKeyError

# With fewer labelled sentences there is too little to learn from, and the paper's rules decide.
MIN_CALIBRATION_SENTENCES = 100

PROFILES = ("paper", "paper-one-gpu", "single-gpu", "tiny-cpu", "fake")

# What `el4ner evaluate` calls its other rows (`measure.py`): a model of that name would lose its own.
_NO_MODEL = ("ensemble", "union")

# What `transformers.PreTrainedTokenizerBase.apply_chat_template` takes for itself, and what a template is always given.
_NOT_THE_TEMPLATES = {
    "conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip


class _Section(BaseModel):
    # No infinity: JSON, in which run.json keeps the configuration, has none.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rates(_Section):
    """Tokens that one replica works through in a second, for `el4ner plan` where no run was measured."""

    prompt: float = Field(
        gt=0, description="Tokens of prompts read in a second, those from the prefix cache not counted."
    )
    generated: float = Field(gt=0, description="Tokens generated in a second, of all requests at once.")


class ReplicaRange(_Section):
    """Replicas that come while calls queue, and go when there is less to do."""

    min: int = Field(1, ge=1, description="Engines that a run starts with, and keeps.")
    max: int = Field(ge=1, description="Engines at most.")

    @model_validator(mode="after")
    def _in_order(self) -> ReplicaRange:
        if self.max < self.min:
            raise ValueError(f"min is {self.min}, more than max; exchange them")
        return self


def _number_or_range(value: object) -> str:
    return "range" if isinstance(value, Mapping | ReplicaRange) else "number"


# Told apart by hand, so that an error is about what was meant.
Replicas = Annotated[
    Annotated[int, Field(ge=1), Tag("number")] | Annotated[ReplicaRange, Tag("range")], Discriminator(_number_or_range)
]


class ModelConfig(_Section):
    """One member of the ensemble."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="How votes, files and tables call it.")
    source: str = Field(description="`bundled:NAME`, a Hugging Face id, or a local folder in Hugging Face format.")
    revision: str | None = Field(None, description="Commit of a Hugging Face source.")
    gpus: float = Field(1.0, ge=0, description="GPUs a replica; fractions share a card.")
    cpus: float = Field(1.0, gt=0, description="Logical CPUs a replica asks Ray for.")
    core_share: float = Field(
        1.0,
        gt=0,
        description="Without a GPU: this model's share of the machine's cores, relative to the other models'. With "
        "fewer cores than models, the one of the largest share has all of them and the others what it leaves. Not "
        "read on a cluster of several nodes, where an engine computes with as many threads as `cpus`.",
    )
    replicas: Replicas = Field(
        1, description="Engines of this model: a number, or as many as its queue wants, within a [range](#replicas)."
    )
    rates: Rates | None = Field(None, description="Speed of a replica, for `el4ner plan` without a measured run.")
    chat_template: bool = Field(False, description="Ask through the model's chat template instead of as running text.")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="What the model's chat template is told, such as `{enable_thinking: false}`; see "
        "[thinking models](gpus.md#models-that-think).",
    )
    stop_token_ids: tuple[int, ...] = Field((), description="Further token ids that end an answer.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model. Know whose it is.")
    engine: dict[str, Any] = Field(default_factory=dict, description="Engine arguments, passed through to vLLM.")

    @field_validator("engine", "chat_template_kwargs")
    @classmethod
    def _finite(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(arguments, allow_nan=False, skipkeys=True, default=str)
        except ValueError:
            raise ValueError("holds .inf or .nan, which JSON and so run.json cannot hold; give a number") from None
        return arguments

    @field_validator("chat_template_kwargs")
    @classmethod
    def _left_to_the_template(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_NOT_THE_TEMPLATES & arguments.keys()):
            raise ValueError(f"{taken[0]!r} is not for the template, and decided by the engine; leave it out")
        return arguments

    @model_validator(mode="after")
    def _template_that_is_told(self) -> ModelConfig:
        if self.chat_template_kwargs and not self.chat_template:
            raise ValueError(
                "chat_template_kwargs: tells a chat template something, and this model is asked with running text; "
                "add `chat_template: true`, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _workers_on_cards(self) -> ModelConfig:
        for field in ("tensor_parallel_size", "pipeline_parallel_size"):
            size = self.engine.get(field, 1)
            if type(size) is not int or size < 1:
                raise ValueError(f"engine.{field}: {size!r} is no number of workers; give 1 or more")
            if size > 1 and not self.gpus:
                raise ValueError(
                    f"engine.{field}: divides a model among GPUs, and with `gpus: 0` it computes on cores; "
                    "leave one of them out"
                )
        return self

    @model_validator(mode="after")
    def _cards_used(self) -> ModelConfig:
        if self.gpus > 1 and (self.parallel == 1 or self.gpus != int(self.gpus)):
            raise ValueError(
                f"gpus: an engine uses one card, and {self.gpus:g} would be reserved; give 1, or divide the model "
                "among cards with engine.tensor_parallel_size"
            )
        return self

    @model_validator(mode="after")
    def _engines_are_replicas(self) -> ModelConfig:
        if self.engine.get("data_parallel_size", 1) != 1:
            raise ValueError(
                "engine.data_parallel_size: Ray starts the engines of a model, each on cards that it reserves; give "
                "their number as `replicas`, and leave this out"
            )
        return self

    @model_validator(mode="after")
    def _requests_counted(self) -> ModelConfig:
        at_once = self.engine.get("max_num_seqs", 1)
        if type(at_once) is not int or at_once < 1:
            raise ValueError(
                f"engine.max_num_seqs: {at_once!r} is no number of requests; give 1 or more, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _whole_cards_to_come_and_go(self) -> ModelConfig:
        if isinstance(self.replicas, ReplicaRange) and self.gpus != int(self.gpus):
            raise ValueError(
                f"replicas: engines on {self.gpus:g} of a card must not start side by side, as those of a range may, "
                "since each measures the card's free memory then; give a number, or whole cards"
            )
        return self

    @model_validator(mode="after")
    def _turns_on_a_shared_card(self) -> ModelConfig:
        if self.takes_turns and (self.gpus >= 1 or self.parallel > 1):
            raise ValueError(
                "engine.enable_sleep_mode: lets models take turns on a card that they share, and this one has its own; "
                "give `gpus` as a fraction, the same for all that take turns, or leave enable_sleep_mode out"
            )
        return self

    @property
    def replica_range(self) -> ReplicaRange:
        """The replicas at least and at most; the same where a number is given."""
        return (
            self.replicas
            if isinstance(self.replicas, ReplicaRange)
            else ReplicaRange(min=self.replicas, max=self.replicas)
        )

    @property
    def takes_turns(self) -> bool:
        """Whether its engine sleeps while others of its card work."""
        return bool(self.engine.get("enable_sleep_mode"))

    @property
    def parallel(self) -> int:
        """Workers of vLLM in one replica, each on a GPU of its own when there are several."""
        tensor, pipeline = (self.engine.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
        return int(tensor) * int(pipeline)

    @property
    def gpus_of_replica(self) -> float:
        """GPUs that one replica takes; `gpus` is not read where there are several."""
        return self.gpus if self.parallel == 1 else float(self.parallel)


class Demonstrations(_Section):
    """How labelled sentences are chosen for a prompt."""

    k: int = Field(5, ge=1, description="Demonstrations in a prompt.")
    pool_spans: Literal["extracted", "gold"] = Field(
        "extracted",
        description="What stands for a pool sentence: the spans that the models extract from it, or its gold entities.",
    )
    embedder: str = Field(
        "bundled:all-minilm-l6-v2", description="sentence-transformers model: `bundled:NAME`, a hub id or a folder."
    )
    tagger: str = Field(
        "auto",
        description="spaCy pipeline that weights spans, `none` for equal weights, or `auto`: by `language`, "
        "en_core_web_sm for English, else the smallest one installed for it (or `xx`) that tags parts of speech, else "
        "`none`.",
    )
    weights: dict[str, float] = Field(
        default_factory=lambda: {"PROPN": 4.0, "NOUN": 2.0, "PRON": 1.0, "other": 0.0},
        description="Weight of a span by the universal part of speech of its head word.",
    )

    @field_validator("weights")
    @classmethod
    def _weights_complete(cls, weights: dict[str, float]) -> dict[str, float]:
        if weights.keys() != {"PROPN", "NOUN", "PRON", "other"} or min(weights.values()) < 0:
            raise ValueError("give PROPN, NOUN, PRON and other a weight of 0 or more each")
        return weights


class Calibration(_Section):
    """How the calibrated method learns how far the models can be trusted."""

    sentences: int = Field(
        300, ge=MIN_CALIBRATION_SENTENCES, description="Pool sentences that are annotated to learn from."
    )
    target_precision: float | None = Field(None, gt=0, le=1, description="Keep as much as this precision allows.")
    target_recall: float | None = Field(None, gt=0, le=1, description="Keep as little as this recall allows.")

    @model_validator(mode="after")
    def _one_target(self) -> Calibration:
        if self.target_precision is not None and self.target_recall is not None:
            raise ValueError("calibration: give target_precision or target_recall, not both")
        return self


class Limits(_Section):
    """Bounds on what one document, answer or request may cost."""

    part_characters: int = Field(8_000, ge=100, description="Longer documents travel in parts of at most this length.")
    sentence_characters: int = Field(1_000, ge=50, description="Longer sentences are cut at white space.")
    answer_tokens: int = Field(96, ge=8, description="Longest answer to an extraction question.")
    zero_shot_tokens: int = Field(
        48, ge=8, description="Longest answer without demonstrations; small models list on and on until it is reached."
    )
    batch_documents: int = Field(8, ge=1, description="Documents that travel through the stages together.")
    documents_per_file: int = Field(
        64, ge=1, description="Rows that are collected for an output file; what a crash can cost."
    )
    batches_in_flight: int = Field(6, ge=1, description="Batches that a stage works on at once.")
    retrievers: int = Field(
        1, ge=1, description="Actors that retrieve demonstrations; each tags and embeds on one core."
    )
    request_seconds: float = Field(
        1800.0, gt=0, description="Deadline of a call of `call_requests` requests; time in the queue counts."
    )
    call_requests: int = Field(64, ge=1, description="Requests in one call to an engine.")
    retries: int = Field(6, ge=0, description="Further tries after a passing fault of an engine.")


class FakeEngine(_Section):
    """The scripted engine of tests and scale runs: deterministic rule-based answers, no model."""

    latency_ms: float = Field(0.0, ge=0, description="Time that a call takes, however many requests it has.")
    calls_at_once: int | None = Field(
        None, ge=1, description="Calls that an engine works on at the same time; others wait. Default: any number."
    )
    failure_rate: float = Field(0.0, ge=0, le=1, description="Share of calls that raise a passing fault.")
    garbage_rate: float = Field(0.0, ge=0, le=1, description="Share of requests answered with nonsense.")
    hang_after: int | None = Field(
        None, ge=1, description="Calls that an engine answers; then it answers nothing any more, until it is restarted."
    )


class JobConfig(_Section):
    """Everything that decides what a run does."""

    profile: str = Field(description="Packaged configuration that this one lies over.")
    engine: Literal["vllm", "fake"] = Field("vllm", description="`fake` answers by rules, without a model: for tests.")
    method: Literal["paper", "calibrated"] = Field(
        "paper",
        description="`paper`: majority vote, then a verifier; `calibrated`: a probability learnt from the pool.",
    )
    prompts: str = Field("v1", description="Version of the packaged prompt templates.")
    labels: dict[str, str] | None = Field(
        None, description="Entity types with a line of description each. Default: the types that occur in the pool."
    )
    models: tuple[ModelConfig, ...] = Field(min_length=1)
    verifier: str = Field(description="Name of the model that verifies.")
    segmenter: Literal["sentencex", "none"] = Field(
        "sentencex", description="How documents are cut into sentences; `none`: each part is one sentence."
    )
    language: str = Field(
        "en",
        pattern=LANGUAGE_CODE,
        description="ISO 639 code of the texts' language: where sentences end, and which tagger weights spans. One of "
        "three letters becomes that of two.",
    )
    text_column: str = Field("text", description="Input column with the text.")
    id_column: str | None = Field(None, description="Input column with a unique id. Default: `id` where there is one.")
    demonstrations: Demonstrations = Field(default_factory=Demonstrations)
    calibration: Calibration = Field(default_factory=Calibration)
    limits: Limits = Field(default_factory=Limits)
    fake: FakeEngine = Field(default_factory=FakeEngine)

    @field_validator("language")
    @classmethod
    def _known_language(cls, language: str) -> str:
        return known(language)

    @model_validator(mode="after")
    def _names_agree(self) -> JobConfig:
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"models: the name {name!r} is given twice; names must differ")
            if name in _NO_MODEL:
                raise ValueError(f"models: the name {name!r} is that of all models together; give this one another")
        if self.verifier not in names:
            raise ValueError(f"verifier: {self.verifier!r} is not one of the models ({', '.join(names)})")
        if self.labels is not None:
            check_labels(self.labels)
        return self

    @classmethod
    def load(cls, path: str | Path | None = None, *, profile: str | None = None, **fields: Any) -> JobConfig:
        """The configuration from a profile, a YAML file over it, and fields over both, sections as mappings.

        Raises UsageError, naming the field and the mend.

        >>> JobConfig.load(profile="fake", demonstrations={"k": 2}).demonstrations.k
        2
        """
        return load(path, profile, overrides=fields)

    @property
    def model_names(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.models)


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise ValueError unless every label can stand in prompts and answers, as `is_label` says."""
    if not labels:
        raise ValueError("labels: the label set is empty; name at least one entity type")
    for label, description in labels.items():
        if not is_label(label):
            raise ValueError(f"labels: {label!r} {LABEL_RULE}")
        if "\n" in description:
            raise ValueError(f"labels.{label}: the description must be a single line")


def load(
    path: str | Path | None = None,
    profile: str | None = None,
    models: tuple[str, ...] = (),
    overrides: Mapping[str, Any] | None = None,
) -> JobConfig:
    """The configuration from a packaged profile, the YAML file at `path` over it, and `overrides` over both.

    `models` keeps only the named members of the ensemble, in the order given; if the verifier is not among them, the
    first one verifies. Raises UsageError, naming the field and the mend.
    """
    given = _read_yaml(Path(path)) if path else {}
    profile = profile or given.get("profile") or default_profile()
    if profile not in PROFILES:
        raise UsageError(f"profile: there is no {profile!r}; use one of {', '.join(PROFILES)}")
    packaged = resources.files("el4ner_ray.profiles").joinpath(f"{profile}.yaml")
    merged = _merge(yaml_files.load(packaged.read_text("utf-8")), given)
    merged = _merge(merged, overrides or {}) | {"profile": profile}
    if models:
        merged = _choose_models(merged, models)
    try:
        config = JobConfig.model_validate(merged)
    except ValidationError as error:
        raise UsageError(f"{path or f'profile {profile}'}: {_first_problem(error)}") from None
    # Chosen here, so that a run is resumed with the tagger that it was started with.
    return _with_tagger(config, lambda: tagger_for(config.language))


def restored(fields: Mapping[str, Any], path: str | None = None) -> JobConfig:
    """The configuration that a run.json holds, with the YAML file at `path` over it. Raises UsageError."""
    try:
        config = JobConfig.model_validate(_merge(fields, _read_yaml(Path(path)) if path else {}))
    except ValidationError as error:
        raise UsageError(f"{path or 'the configuration of the run'}: {_first_problem(error)}") from None
    return _with_tagger(config, lambda: fields["demonstrations"]["tagger"])


def _with_tagger(config: JobConfig, choose: Callable[[], str]) -> JobConfig:
    if config.demonstrations.tagger != "auto":
        return config
    demonstrations = config.demonstrations.model_copy(update={"tagger": choose()})
    return config.model_copy(update={"demonstrations": demonstrations})


def default_profile() -> str:
    """`single-gpu` on a machine with an NVIDIA GPU, else `tiny-cpu`."""
    return "single-gpu" if has_gpu() else "tiny-cpu"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml_files.load(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}; give the path of a readable YAML file") from None
    except RepeatedYamlKeyError as error:
        raise UsageError(f"--config {path}: {error}; take one of them out") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict | None):
        raise UsageError(f"--config {path}: the file must hold a mapping of fields, not a {type(content).__name__}")
    return content or {}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        # A label set or a list of models is one value: half of the profile's under the user's would surprise.
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key != "labels"
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _choose_models(fields: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    # None where the file has `models:` and nothing after it.
    known = {model.get("name"): model for model in fields.get("models") or [] if isinstance(model, dict)}
    for name in names:
        if name not in known:
            raise UsageError(
                f"--models: there is no {name!r} in this configuration; it has {', '.join(map(str, known)) or 'none'}"
            )
    verifier = fields.get("verifier")
    return fields | {
        "models": [known[name] for name in names],
        "verifier": verifier if verifier in names else names[0],
    }


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "there is no such field; see the configuration reference for the names"
    if problem["type"] == "string_type":
        message = _no_string(problem["input"], problem["loc"]) or message
    return f"{field}: {message}" if field else message


def _no_string(value: object, place: tuple[int | str, ...]) -> str | None:
    """What to tell where a value stands for a string that YAML does not read as one; None for lists and mappings."""
    if value is None:
        of_label = place[0] == "labels" and len(place) > 1
        return 'has no description; write one, or "" for none' if of_label else "has no value; give one or leave it out"
    if isinstance(value, bool):
        taken = "yes, on and true" if value else "no, off and false"
        return f"is a boolean, as which YAML reads {taken}; write it in quotes"
    if isinstance(value, int | float):
        return "is a number, not a string; write it in quotes"
    return "is a date, not a string; write it in quotes" if isinstance(value, date) else None
