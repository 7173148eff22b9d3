"""The bodies of requests and answers, checked, and with the examples that OpenAPI shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict

from el4ner_ray.config import check_labels
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.serve import limits
from el4ner_ray.serve.annotator import Method

_LABELS: JsonDict = {"person": "named people, without title", "place": "cities, countries, rivers"}
_DEMONSTRATION: JsonDict = {
    "text": "Anna flew to Oslo.",
    "entities": [{"start": 0, "end": 4, "type": "person"}, {"start": 13, "end": 17, "type": "place"}],
}
_REQUEST: JsonDict = {"texts": ["Ben met her in Rome."], "labels": _LABELS, "demonstrations": [_DEMONSTRATION]}
_ENTITY: JsonDict = {
    "start": 15,
    "end": 19,
    "text": "Rome",
    "type": "place",
    "score": 0.91,
    "votes": [{"model": "a", "type": "place"}, {"model": "b", "type": "place"}],
    "extracted_by": ["a"],
    "verified": True,
}


def _unicode(text: str) -> str:
    # JSON can name half of a surrogate pair (\ud800), which no UTF-8 can hold.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"code point {error.start} is half of a surrogate pair; send whole characters") from None
    return text


Text = Annotated[str, AfterValidator(_unicode)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GoldSpan(_Message):
    """An entity of a demonstration."""

    start: int = Field(ge=0, description="First code point.")
    end: int = Field(description="The code point after the last one.")
    type: Text = Field(description="One of the labels.")


class Demonstration(_Message):
    """A labelled sentence that shows the models how."""

    text: Text = Field(min_length=1, max_length=limits.DEMONSTRATION_CHARACTERS)
    entities: list[GoldSpan] = Field(max_length=limits.ENTITIES, description="Empty where the sentence has none.")

    @model_validator(mode="after")
    def _spans_lie_in_the_text(self) -> Demonstration:
        if not self.text.strip():
            raise ValueError("text: is empty; give the sentence, or leave the demonstration out")
        for number, entity in enumerate(self.entities):
            if not entity.start < entity.end <= len(self.text):
                raise ValueError(
                    f"entities.{number}: [{entity.start}, {entity.end}) is no span of the text, which has "
                    f"{len(self.text)} code points; offsets count from 0, the end is exclusive"
                )
            if self.text[entity.start : entity.end].isspace():
                raise ValueError(
                    f"entities.{number}: [{entity.start}, {entity.end}) is white space only; mark what is named, or "
                    "leave the entity out"
                )
        shown = sum(entity.end - entity.start for entity in self.entities)
        if shown > limits.ENTITY_CHARACTERS:
            raise ValueError(
                f"entities: they have {shown} code points together, at most {limits.ENTITY_CHARACTERS} are shown; "
                "give fewer that overlap"
            )
        return self

    def labelled(self, number: int) -> LabelledText:
        """As the stages take it."""
        spans = dict.fromkeys(LabelledSpan(entity.start, entity.end, entity.type) for entity in self.entities)
        return LabelledText(str(number), self.text, tuple(spans))


class AnnotateRequest(_Message):
    """Texts to annotate, and how."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_REQUEST]})

    texts: list[Text] = Field(min_length=1, max_length=limits.TEXTS, description="Each is annotated by itself.")
    labels: (
        dict[
            Annotated[Text, Field(max_length=limits.LABEL_CHARACTERS)],
            Annotated[Text, Field(max_length=limits.DESCRIPTION_CHARACTERS)],
        ]
        | None
    ) = Field(
        None,
        max_length=limits.LABELS,
        description="Entity types with a line of description each. Default: those of the server's pool.",
    )
    demonstrations: list[Demonstration] = Field(
        default_factory=list,
        max_length=limits.DEMONSTRATIONS,
        description="Labelled sentences; every prompt shows all of them, the last one next to the sentence. Without, "
        "the most similar ones of the server's pool where the labels are the pool's, else none.",
    )
    method: Method | None = Field(None, description="Default: the server's with the pool's demonstrations, else paper.")
    stream: bool = Field(False, description="Answer in lines of JSON; so does the header Accept: application/x-ndjson.")
    stages: bool = Field(False, description="A stream also tells what the stages before the last one found.")

    @field_validator("labels")
    @classmethod
    def _labels_fit_a_prompt(cls, labels: dict[str, str] | None) -> dict[str, str] | None:
        if labels is not None:
            check_labels(labels)
        return labels


class Vote(_Message):
    """What a model called a span; null where it abstained."""

    model: str
    type: str | None


class Entity(_Message):
    """An entity, as in the Parquet output. `text == document[start:end]`, in code points."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_ENTITY]})

    start: int
    end: int
    text: str
    type: str
    score: float
    votes: list[Vote]
    extracted_by: list[str]
    verified: bool


class Annotation(_Message):
    """What was found in one text. `error` says why the status is not ok."""

    status: Literal["ok", "partial", "failed"]
    entities: list[Entity]
    dropped: list[Entity] = Field(description="Candidates that some model found and the ensemble did not keep.")
    error: str | None


class _Facts(_Message):
    method: Method
    demonstrations: Literal["pool", "given", "none"]
    labels: dict[str, str]


class _Totals(_Message):
    sentences: int
    seconds: float
    stages: dict[str, Any] = Field(description="Costs by stage and model, as in run.json.")


class AnnotateResponse(_Facts, _Totals):
    """One annotation a text, in the order of the texts."""

    documents: list[Annotation]


class _Place(_Message):
    document: int = Field(description="Number of the text, from 0.")
    sentence: int = Field(description="Number of the sentence in it, from 0.")
    start: int = Field(description="Where the sentence starts in the text, in code points.")
    end: int


class StartLine(_Facts):
    """The first line of a stream."""

    kind: Literal["start"]
    documents: int
    sentences: list[_Place]


class Candidate(_Message):
    """A span of the union, and who found it."""

    start: int
    end: int
    text: str
    extracted_by: list[str]


class StageLine(_Place):
    """What a stage found in a sentence: `extract` gives candidates, `classify` entities with their votes."""

    kind: Literal["stage"]
    stage: str
    candidates: list[Candidate] | None = None
    entities: list[Entity] | None = None


class SentenceLine(_Place, Annotation):
    """A sentence that is done. Offsets count from the start of its text, not of the sentence."""

    kind: Literal["sentence"]


class EndLine(_Totals):
    """The last line of a stream that is complete."""

    kind: Literal["end"]


class Error(_Message):
    """What is wrong and what to do."""

    status: int
    code: str
    message: str


class ErrorResponse(_Message):
    """The body of every answer that is not 200."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"error": {"status": 422, "code": "invalid", "message": "texts: Field required"}},
            ]
        }
    )

    error: Error


class ErrorLine(ErrorResponse):
    """The last line of a stream that could not be completed."""

    kind: Literal["error"]


StreamLine = StartLine | StageLine | SentenceLine | EndLine | ErrorLine


class Health(_Message):
    """ok: every model's engines run. The state of each is Ray Serve's word for it."""

    status: Literal["ok", "unavailable"]
    models: dict[str, str]


class Model(_Message):
    """A member of the ensemble."""

    name: str
    source: str
    verifier: bool


class Models(_Message):
    """What this server can be asked for."""

    engine: str
    models: list[Model]
    methods: list[Method]
    labels: dict[str, str] | None = Field(description="The label set of requests that name none.")
    pool_sentences: int | None = Field(description="Labelled sentences that demonstrations are chosen from.")
    limits: dict[str, float]
