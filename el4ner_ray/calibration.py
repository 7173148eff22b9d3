"""Learning from the labelled pool how far each model can be trusted: what the calibrated method knows before it starts.

A part of the pool is annotated with demonstrations from the rest, and a small model is fitted to tell, from the
evidence on each candidate, what was gold. No LLM is trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import numpy.typing as npt
import ray

from el4ner_ray import pipeline
from el4ner_ray.config import Calibration, JobConfig
from el4ner_ray.core.evidence import Array, Evidence
from el4ner_ray.core.fusion import Fusion, OperatingPoint, best_penalty, choose, fit
from el4ner_ray.core.scaling import Scaling, fit_scaling
from el4ner_ray.core.similarity import Ints
from el4ner_ray.demonstrations import DemonstrationIndex
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.labelled import LabelledText
from el4ner_ray.pool import Pool
from el4ner_ray.schema import Annotated, Entity
from el4ner_ray.sink import FileSummary
from el4ner_ray.stages.fuse import Weigher, decide, score

# Of what is learnt and how: another version's calibrations are not used again.
VERSION = 5
_FILE = "calibration.json"


class _Kept(msgspec.Struct):
    basis: str
    fusion: msgspec.Raw


def calibrated(
    config: JobConfig, pool: Pool, basis: str, say: Callable[[str], None]
) -> tuple[tuple[Fusion, OperatingPoint], FileSummary]:
    """What the pool teaches about the models, learnt now or by an earlier run, and the point for what is asked.

    With what was asked of the engines, which must be running. `basis` is a fingerprint of all that answers depend on.
    """
    fusion, costs = read_fusion(pool.index, basis), FileSummary()
    if fusion is None:
        texts = DemonstrationIndex.read_pool(pool.index)
        numbers = chosen(len(texts), config.calibration)
        say(f"calibration: annotating {len(numbers)} pool sentences with demonstrations from the rest")
        annotated, costs = pipeline.annotate_pool(texts, numbers, config, pool.labels, pool.index)
        fusion = ray.get(_learn.remote(config, pool, annotated))
        try:
            write_fusion(pool.index, basis, fusion)
        except OSError as error:
            say(
                f"warning: what was learnt cannot be kept in {pool.index} ({error.strerror}); the next run learns again"
            )
    point = operating_point(fusion, config.calibration)
    say(
        f"calibration: on held-out pool sentences, precision {point.precision:.2f} "
        f"(by the scores {point.mean_score:.2f}), recall {point.recall:.2f}, F1 {point.f1:.2f} at score "
        f"{point.threshold:.2f}, "
        f"calibration error {fusion.reliability(point.threshold).error:.3f}"
    )
    return (fusion, point), costs


def figures(fusion: Fusion, point: OperatingPoint) -> dict[str, Any]:
    """What run.json says of a calibration; precision, recall, F1 and error are those of held-out pool sentences."""
    found = fusion.reliability(point.threshold)
    return {
        "sentences": fusion.sentences,
        "gold_entities": fusion.gold,
        "candidates": fusion.candidates,
        "penalty": fusion.penalty,
        **asdict(point),
        "expected_calibration_error": found.error,
        "reliability": msgspec.to_builtins(found.bins),
    }


@ray.remote(num_cpus=0.1)  # type: ignore[untyped-decorator]  # ray has no type stubs
def _learn(config: JobConfig, pool: Pool, annotated: list[Annotated]) -> Fusion:
    # In a worker, whose memory is returned: the driver needs neither torch nor the embedder.
    return learn(config, pool.labels, pool.index, annotated)


def chosen(pool_sentences: int, calibration: Calibration) -> list[int]:
    """Numbers of the pool sentences to learn from, spread evenly over the pool."""
    count = min(pool_sentences, calibration.sentences)
    return [i * pool_sentences // count for i in range(count)]


@dataclass(frozen=True)
class Weighed:
    """A labelled sentence with its candidates and the evidence on them."""

    gold: LabelledText
    candidates: list[Entity]
    evidence: Evidence

    @classmethod
    def of(
        cls,
        weigher: Weigher,
        gold: LabelledText,
        candidates: list[Entity],
        demonstrations: list[int],
        *,
        of_pool: bool,
    ) -> Weighed:
        """The sentence with what the pool says of its candidates. `of_pool`: see `Weigher.weigh`."""
        return cls(gold, candidates, weigher.weigh(gold.text, candidates, demonstrations, of_pool=of_pool))


def learn(config: JobConfig, labels: Mapping[str, str], index: str, annotated: Sequence[Annotated]) -> Fusion:
    """Fit the fusion to the annotated pool sentences.

    Raises FatalError when the models found no entity of the pool: there is nothing to learn from.
    """
    weigher = Weigher(config, labels, index)
    return learn_from(weighed(weigher, annotated), tuple(labels), nested=overlapping(weigher.pool))


def weighed(weigher: Weigher, annotated: Sequence[Annotated]) -> list[Weighed]:
    """Annotated pool sentences with the evidence that the rest of the pool gives."""
    return [
        Weighed.of(weigher, weigher.pool[s.number], s.candidates, s.demonstrations, of_pool=True) for s in annotated
    ]


def learn_from(known: Sequence[Weighed], labels: tuple[str, ...], *, nested: bool) -> Fusion:
    """Fit the fusion to these sentences; `nested` tells whether predicted entities may overlap. Raises as `learn`."""
    sentences = [sentence for sentence in known if sentence.candidates]
    truths = [_truth(sentence.candidates, sentence.gold, labels) for sentence in sentences]
    if not any(truth.any() for truth in truths):
        raise FatalError("method calibrated: the models find no entity of the pool; use other models or --method paper")
    evidence = Evidence.concatenate([sentence.evidence for sentence in sentences])
    truth = np.concatenate(truths)
    counts = [len(sentence.candidates) for sentence in sentences]
    # Equal texts are one sentence: else a fold would be held out from what it was learnt from.
    distinct, texts = np.unique([sentence.gold.text for sentence in sentences], return_inverse=True)
    if len(distinct) < 2:
        raise FatalError(
            "method calibrated: the models find something in one text of the pool alone; "
            "use other models or --method paper"
        )
    penalty, probabilities = best_penalty(evidence, truth, np.repeat(texts, counts))
    held_out = np.split(probabilities, np.cumsum(counts)[:-1])
    scores, right = judged(sentences, held_out, labels, nested=nested)
    scaling = fit_scaling(scores, right)
    return Fusion(
        weights=fit(evidence, truth, penalty),
        scaling=scaling,
        nested=nested,
        penalty=penalty,
        sentences=len(known),
        gold=sum(len(sentence.gold.typed) for sentence in known),
        candidates=len(truth),
        scores=tuple(scaling(scores).tolist()),
        right=tuple(right.tolist()),
    )


def judged(
    sentences: Sequence[Weighed], probabilities: Sequence[Array], labels: tuple[str, ...], *, nested: bool
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Unscaled scores of all entities that are left when conflicts are resolved, and which of them are gold."""
    left = [
        (entity.score, (entity.span.start, entity.span.end, entity.label) in sentence.gold.typed)
        for sentence, of_sentence in zip(sentences, probabilities, strict=True)
        if sentence.candidates
        # A span's conflicts are with more probable ones: what remains above a threshold does not depend on the rest.
        for entity in decide(score(sentence.candidates, of_sentence, labels, Scaling()), 0.0, nested)
        if entity.kept
    ]
    return np.array([value for value, _ in left]), np.array([right for _, right in left], bool)


def operating_point(fusion: Fusion, calibration: Calibration) -> OperatingPoint:
    """The threshold for what the configuration asks for. Raises UsageError when none reaches it."""
    points = fusion.operating_points()
    try:
        return choose(points, calibration.target_precision, calibration.target_recall)
    except ValueError as error:
        best = max(point.sure_precision if calibration.target_precision else point.recall for point in points)
        raise UsageError(f"calibration: {error}; at most {best:.2f} can be had from these models") from None


def read_fusion(index: str, basis: str) -> Fusion | None:
    """What an earlier run learnt on this `basis`; None where it is not there. Raises UsageError for a damaged file."""
    path = Path(index) / _FILE
    if not path.is_file():
        return None
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        return msgspec.json.decode(kept.fusion, type=Fusion) if kept.basis == basis else None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: damaged: {error}; remove it, and what it held is learnt again") from None


def write_fusion(index: str, basis: str, fusion: Fusion) -> None:
    """Keep what was learnt beside the index, in place of what was learnt on another basis."""
    path = Path(index) / _FILE
    temporary = path.with_suffix(f".{uuid4().hex}.part")
    kept = msgspec.json.encode(_Kept(basis, msgspec.Raw(msgspec.json.encode(fusion))))
    try:
        temporary.write_bytes(msgspec.json.format(kept, indent=1))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _truth(candidates: Sequence[Entity], gold: LabelledText, labels: tuple[str, ...]) -> Ints:
    """(n,): 0 where the candidate is no entity, else 1 + the number of its label."""
    of_span = {(entity.start, entity.end): 1 + labels.index(entity.type) for entity in reversed(gold.entities)}
    return np.array([of_span.get((c.span.start, c.span.end), 0) for c in candidates], np.int64)


def overlapping(texts: Iterable[LabelledText]) -> bool:
    """Whether entities of one text overlap each other anywhere."""
    ordered = (sorted((entity.start, entity.end) for entity in text.entities) for text in texts)
    return any(later[0] < earlier[1] for spans in ordered for earlier, later in itertools.pairwise(spans))
