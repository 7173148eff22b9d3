"""Scenario `sequential`: the method as one would first write it, on `transformers`, one prompt after another.

No batches, no shared prefixes, no votes left out; the pool is gone through sentence by sentence for every sentence. The
prompts, and how answers are read, are the pipeline's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from benchmarks.fresh import in_fresh_process
from benchmarks.measured import Figure, ratios
from benchmarks.task import OfText
from el4ner_ray.config import JobConfig, ModelConfig
from el4ner_ray.core.alignment import align
from el4ner_ray.core.parsing import Extraction, parse_extraction, parse_list
from el4ner_ray.core.prompting import FALSE, TRUE, LabelledSentence, Prompts, messages, one_line, running_text
from el4ner_ray.core.voting import majority, union
from el4ner_ray.demonstrations import DemonstrationIndex
from el4ner_ray.engines.bundled import resolve
from el4ner_ray.engines.vllm import cpu_dtype
from el4ner_ray.labelled import labels_of
from el4ner_ray.schema import Entity, Span, Vote
from el4ner_ray.text_models import Embedder, Tagger

T = TypeVar("T")


class Workload(OfText, forbid_unknown_fields=True):
    """The pipeline annotates `sentences`, the plain implementation `by_hand` of them, at equal distances."""

    by_hand: int


class Model(Protocol):
    """A language model that takes one question at a time."""

    def answer(self, turns: tuple[str, ...], max_tokens: int, stop: str) -> tuple[str, bool]:
        """What it says up to `stop`, and whether it came to an end."""
        ...

    def choose(self, turns: tuple[str, ...], choices: tuple[str, ...]) -> tuple[str, float]:
        """The most probable of the choices, and its probability among them."""
        ...


def measure(workload: Workload, scratch: Path) -> list[Figure]:
    """Sentences a second of both and their ratio, what each side computes for it, and what F1 the speed costs."""
    task = workload.task()
    few = [text.text for text in at_equal_distances(task.gold, workload.by_hand)]
    pipeline, by_hand, f1, tokens, tokens_by_hand, in_engines = [], [], [], [], [], []
    for number in range(workload.repeats):
        run = task.annotate(scratch, f"pipeline-{number}")
        pipeline.append(float(run.content["sentences_per_second"]))
        f1.append(task.f1_of_run(run, scratch))
        tokens.append(_computed(run.content["stages"]) / run.content["sentences"])
        taken = run.watched.cpu_seconds
        in_engines.append(taken["engines"] / sum(taken.values()))
        # The models end with their process: those of the next run need the memory.
        seconds, computed = in_fresh_process(_one_by_one, task.config, str(scratch / "index"), few)
        by_hand.append(len(few) / seconds)
        tokens_by_hand.append(computed / len(few))
    return [
        Figure("times as many sentences a second", "", ratios(pipeline, by_hand)),
        Figure("pipeline", "sentences/s", tuple(pipeline)),
        Figure("sequential", "sentences/s", tuple(by_hand)),
        Figure("computed tokens a sentence, pipeline", "tokens", tuple(tokens)),
        Figure("computed tokens a sentence, sequential", "tokens", tuple(tokens_by_hand)),
        Figure("engines' share of the pipeline's CPU time", "", tuple(in_engines)),
        Figure("F1 of the pipeline", "", tuple(f1)),
    ]


def _computed(stages: Mapping[str, Mapping[str, Mapping[str, int]]]) -> int:
    """The tokens that engines computed: of prompts what no cache held, and what they generated."""
    usages = [usage for of_models in stages.values() for usage in of_models.values()]
    return sum(u["prompt_tokens"] - u["cached_tokens"] + u["generated_tokens"] for u in usages)


def at_equal_distances(texts: Sequence[T], count: int) -> list[T]:
    """So many of the texts, the first among them; all where there are no more."""
    few = min(count, len(texts))
    return [texts[number * len(texts) // few] for number in range(few)]


def _one_by_one(config: JobConfig, index: str, texts: list[str]) -> tuple[float, int]:
    """Seconds, and tokens that the models computed."""
    models = {model.name: TransformersModel(model) for model in config.models}
    plain = Sequential(config, index, models)
    began = time.perf_counter()
    for text in texts:
        plain.annotate(text)
    return time.perf_counter() - began, sum(model.computed_tokens for model in models.values())


class Sequential:
    """The paper's method, one sentence and one question at a time."""

    def __init__(self, config: JobConfig, index: str, models: Mapping[str, Model]) -> None:
        """`models` in the order of the configuration."""
        self._config, self._models = config, models
        self._pool = DemonstrationIndex.read_pool(index)
        self._index = DemonstrationIndex.open(index)
        self._labels = config.labels or labels_of(self._pool)
        self._prompts = Prompts(config.prompts, self._labels)
        self._embedder = Embedder(config.demonstrations.embedder)
        self._tagger = Tagger(config.demonstrations.tagger, config.demonstrations.weights)

    def annotate(self, text: str) -> list[Entity]:
        """The typed candidates of a sentence; what the verifier calls false is not kept."""
        limits = self._config.limits
        listed = self._extract(self._prompts.pre_extraction(text), text, parse_list, limits.zero_shot_tokens, "\n\n")
        shown = [
            self._prompts.demonstration(LabelledSentence(self._pool[i].text, self._pool[i].mentions))
            for i in reversed(self._demonstrations(text, list(listed)))
        ]
        question = self._prompts.extraction(text, shown)
        candidates = self._extract(question, text, parse_extraction, limits.answer_tokens, "\n")
        surfaces = list(dict.fromkeys(one_line(text[span.start : span.end]) for span in candidates))
        entities = []
        for span, extracted_by in candidates.items():
            surface = one_line(text[span.start : span.end])
            turns = self._prompts.classification(question, surfaces, surface)
            votes = [Vote(name, *model.choose(turns, tuple(self._labels))) for name, model in self._models.items()]
            label = majority(votes)
            if label is not None:
                asked = self._prompts.verification(turns, surface, label)
                answer, _ = self._models[self._config.verifier].choose(asked, (TRUE, FALSE))
                entities.append(
                    Entity(span, label, 0.0, tuple(votes), extracted_by, answer == TRUE, kept=answer != FALSE)
                )
        return entities

    def _extract(
        self, turns: tuple[str, ...], text: str, parse: Any, max_tokens: int, stop: str
    ) -> dict[Span, tuple[str, ...]]:
        found = {}
        for name, model in self._models.items():
            read: Extraction = parse(*model.answer(turns, max_tokens, stop))
            found[name] = align(text, read.surfaces)[0]
        return {candidate.span: candidate.extracted_by for candidate in union(found)}

    def _demonstrations(self, text: str, spans: list[Span]) -> list[int]:
        [weights] = self._tagger.weights([text], [spans])
        if not spans or weights.sum() <= 0:
            similarities = [float(vector @ self._embedder.embed([text])[0]) for vector in self._index.sentences]
        else:
            query = self._embedder.embed([text[span.start : span.end] for span in spans])
            similarities = [self._similarity(query, weights, number) for number in range(len(self._pool))]
        ranked = sorted(range(len(similarities)), key=lambda number: -similarities[number])
        return ranked[: self._config.demonstrations.k]

    def _similarity(self, query: Any, weights: Any, number: int) -> float:
        start, end = self._index.starts[number : number + 2]
        if start == end:
            return -1.0
        cosines = query @ self._index.spans[self._index.span_of[start:end]].T
        return float(np.dot(weights / weights.sum(), cosines.max(axis=1)))


class TransformersModel:
    """A causal language model of `transformers`, batch size 1, greedy."""

    def __init__(self, model: ModelConfig) -> None:
        """Load it onto the GPU if there is one."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source = resolve(model.source)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
        self._tokenizer = AutoTokenizer.from_pretrained(source, **options)
        dtype = "bfloat16" if self._device == "cuda" else cpu_dtype()  # what the engines compute in
        loaded = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
        self._model = loaded.to(self._device).eval()
        self._chat, self._template = model.chat_template, model.chat_template_kwargs
        self._endings: dict[str, Any] = {}
        self.computed_tokens = 0

    def answer(self, turns: tuple[str, ...], max_tokens: int, stop: str) -> tuple[str, bool]:
        """See Model."""
        ids = self._prompt(turns)
        generated = self._model.generate(
            ids, max_new_tokens=max_tokens, do_sample=False, stopping_criteria=self._ending(stop)
        )[0, ids.shape[1] :]
        self.computed_tokens += ids.shape[1] + len(generated)
        text: str = self._tokenizer.decode(generated, skip_special_tokens=True)
        return text.split(stop, 1)[0].strip(), stop in text or len(generated) < max_tokens

    def choose(self, turns: tuple[str, ...], choices: tuple[str, ...]) -> tuple[str, float]:
        """See Model. Where the first token tells the choices apart, one pass over the prompt tells them all."""
        prompt = self._prompt(turns)
        written = [choice if self._chat else f" {choice}" for choice in choices]
        answers = [self._tokenizer.encode(w, add_special_tokens=False, return_tensors="pt")[0] for w in written]
        first = [int(answer[0]) for answer in answers]
        if len(set(first)) == len(first):
            scores = self._logprobs(prompt, 1)[0, first].tolist()
        else:
            scores = [self._score(prompt, answer.to(self._device)) for answer in answers]
        best = max(scores)
        return choices[scores.index(best)], 1 / sum(math.exp(score - best) for score in scores)

    def _ending(self, stop: str) -> Any:
        # Of `stop_strings`, transformers goes through the whole vocabulary in each call: two fifths of all its time.
        if stop not in self._endings:
            from transformers import StoppingCriteriaList, StopStringCriteria

            self._endings[stop] = StoppingCriteriaList([StopStringCriteria(self._tokenizer, [stop])])
        return self._endings[stop]

    def _score(self, prompt: Any, answer: Any) -> float:
        import torch

        # What follows the prompt's last token is the answer's first; nothing is asked of what follows the answer.
        logprobs = self._logprobs(torch.cat([prompt, answer[None]], 1), len(answer) + 1)[:-1]
        return float(logprobs.gather(1, answer[:, None]).sum())

    def _logprobs(self, ids: Any, last: int) -> Any:
        """Of each token of the vocabulary (v), after each of the `last` tokens alone: (last, v)."""
        import torch

        self.computed_tokens += ids.shape[1]
        with torch.inference_mode():
            return torch.log_softmax(self._model(ids, logits_to_keep=last).logits[0].float(), -1)

    def _prompt(self, turns: Sequence[str]) -> Any:
        if not self._chat:
            return self._tokenizer.encode(running_text(turns), return_tensors="pt").to(self._device)
        return self._tokenizer.apply_chat_template(
            messages(turns), add_generation_prompt=True, return_tensors="pt", return_dict=False, **self._template
        ).to(self._device)
