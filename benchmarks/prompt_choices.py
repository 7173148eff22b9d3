"""Other prompts than the packaged ones, to compare them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pyarrow as pa
from laboratory import Laboratory, asking_with

from el4ner_ray.config import JobConfig, ModelConfig
from el4ner_ray.core.prompting import LabelledSentence, Prompts
from el4ner_ray.engines.bundled import resolve
from el4ner_ray.labelled import LabelledText
from el4ner_ray.stages.base import Batch, Stage
from el4ner_ray.stages.retrieve import Retrieve

_TEMPLATES = {
    "short instructions": {
        "instructions": 'Named entities and their types ({{ labels | map(attribute="name") | join(", ") }}).\n\n'
    },
    "names of the parts changed": {
        "extract": "Text: {{ sentence }}\nNames:",
        "classify": "{{ surface }} is a",
    },
}


@dataclass(frozen=True)
class Variant:
    """A configuration and a pool to try.

    `ordered` is the stage that retrieves demonstrations, and `prompts` are what is asked, if not the method's own.
    """

    config: JobConfig
    pool: Sequence[LabelledText]
    ordered: type[Stage] = Retrieve
    prompts: type[Prompts] = Prompts


class TypesNotDemonstrated(Prompts):
    """Shows of a demonstration only which entities it has."""

    def demonstration(self, sentence: LabelledSentence) -> tuple[str, ...]:
        return super().demonstration(sentence)[:2]


class MostSimilarFirst(Retrieve):
    """The method's demonstrations, shown the other way round: the least similar one is next to the question."""

    async def run(self, batch: Batch) -> list[list[list[int]]]:
        return [[chosen[::-1] for chosen in of_row] for of_row in await super().run(batch)]


def variants(config: JobConfig, pool: Sequence[LabelledText], folder: Path) -> dict[str, Variant]:
    """What is tried, by name; changed templates are written to folders below `folder`."""
    tried = {"v1": Variant(config, pool)}
    for name, changed in _TEMPLATES.items():
        templates = _with_templates(folder / name.replace(" ", "-"), changed)
        tried[name] = Variant(config.model_copy(update={"prompts": str(templates.absolute())}), pool)
    tried["types not demonstrated"] = Variant(config, pool, prompts=TypesNotDemonstrated)
    tried["most similar first"] = Variant(config, pool, MostSimilarFirst)
    tried["no sentence without entities shown"] = Variant(config, [text for text in pool if text.entities])
    return tried


def with_chat_templates(config: JobConfig) -> JobConfig:
    """The models whose tokenizers have a chat template asked through it, the others with running text.

    Raises ValueError where none has one.
    """
    models = tuple(m.model_copy(update={"chat_template": _has_chat_template(m)}) for m in config.models)
    if not any(model.chat_template for model in models):
        raise ValueError(
            f"no tokenizer of {', '.join(config.model_names)} has a chat template, so there is nothing to compare: "
            "leave the study `chat` out, or name a profile whose models have one"
        )
    return config.model_copy(update={"models": models})


def _has_chat_template(model: ModelConfig) -> bool:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        resolve(model.source), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    return tokenizer.chat_template is not None


async def classified(variant: Variant, laboratory: Laboratory, texts: Sequence[LabelledText]) -> pa.Table:
    """The rows of the texts after classification."""
    index = await laboratory.index()
    stages = laboratory.asking(index)
    stages[1] = variant.ordered(variant.config, index)
    asking_with(variant.prompts(variant.config.prompts, laboratory.labels), stages[2:])
    return await laboratory.run(stages, texts)


def _with_templates(folder: Path, changed: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for template in resources.files("el4ner_ray.prompts").joinpath("v1").iterdir():
        (folder / template.name).write_text(changed.get(template.name.split(".")[0], template.read_text("utf-8")))
    return folder
