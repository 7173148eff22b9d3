"""A spaCy component: `nlp.add_pipe("el4ner", config={"pool": "pool.jsonl"})` sets `doc.spans["el4ner"]`.

spaCy finds it by the package's entry point `spacy_factories`, and imports this module whenever any pipeline is made:
Ray is imported when a component is made.
"""

import configparser
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from spacy import Config
from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import minibatch

from el4ner_ray.errors import UsageError

if TYPE_CHECKING:
    from el4ner_ray.config import JobConfig
    from el4ner_ray.results import AnnotatedDocument

logger = logging.getLogger(__name__)

MODES = ("strict", "contract", "expand")

_ONE_PROCESS = (
    "el4ner: this component works in the process that made it; use nlp.pipe with n_process=1, the engines work in "
    "parallel as it is"
)


# No `from __future__ import annotations` here: spaCy checks the settings against these types.
@Language.factory(  # type: ignore[untyped-decorator]  # spacy is not checked
    "el4ner",
    assigns=["doc.spans"],
    default_config={
        "pool": None,
        "labels": None,
        "profile": None,
        "config": None,
        "fields": {},
        "spans_key": "el4ner",
        "alignment_mode": "expand",
    },
)
def create(
    nlp: Language,
    name: str,
    pool: str | list[dict[str, Any]] | None,
    labels: dict[str, str] | None,
    profile: str | None,
    config: str | None,
    fields: dict[str, Any],
    spans_key: str,
    alignment_mode: str,
) -> "El4ner":
    """The component of a pipeline; its engines start with the first document.

    Raises UsageError when a setting, the pool or a label is not what it should be, before any model loads.

    Args:
        nlp: the pipeline; its language is that of the texts, unless `config` or `fields` name another.
        name: what the pipeline calls the component.
        pool: labelled sentences: a file, an index built by `el4ner index`, or mappings like the lines of JSON.
        labels: entity types with a line of description each; default: those of the configuration, else of the pool.
        profile: packaged configuration; default: that of the machine.
        config: YAML file over the profile.
        fields: fields over both, as `JobConfig.load` takes them.
        spans_key: where in `doc.spans` the entities go.
        alignment_mode: what becomes of an entity that begins or ends inside a token, as in `Doc.char_span`: it grows to
            whole tokens (`expand`), shrinks to them (`contract`), or is left out (`strict`).
    """
    from el4ner_ray.config import JobConfig

    if pool is None:
        raise UsageError(
            f'{name}: pool: give labelled sentences: nlp.add_pipe("el4ner", config={{"pool": "pool.jsonl"}})'
        )
    if alignment_mode not in MODES:
        raise UsageError(f"{name}: alignment_mode: {alignment_mode!r} is not one of {', '.join(MODES)}")
    made = JobConfig.load(config, profile=profile, **fields)
    # Profiles name none, so one that is set comes from the file or the fields.
    if "language" not in made.model_fields_set and nlp.lang != "xx":
        made = JobConfig.load(config, profile=profile, **fields, language=nlp.lang)
    saved = {"pool": pool, "labels": labels, "config": config, "fields": fields, "spans_key": spans_key}
    return El4ner(made, pool, labels, spans_key, alignment_mode, saved)


class El4ner:
    """Sets `doc.spans[spans_key]`: a span for each entity, nested and overlapping ones included, in order of the text.

    Beside them, in the same order, `doc.spans[spans_key].attrs` has the lists `scores` (as spaCy's span categorizer
    has), `offsets` ([start, end) in characters of `doc.text`, exact where a token is cut), `votes` ([model, type or
    None]), `extracted_by` and `verified`; and `status` and `error` of the document.
    """

    def __init__(
        self,
        config: "JobConfig",
        pool: str | list[dict[str, Any]],
        labels: dict[str, str] | None,
        spans_key: str,
        alignment_mode: str,
        saved: dict[str, Any],
    ) -> None:
        """`saved`: the settings that spaCy writes into `config.cfg`, which changes some."""
        from el4ner_ray.ensemble import Ensemble

        self.ensemble = Ensemble(config)
        self.ensemble.check(pool, labels)
        self.misaligned = 0
        """Entities so far that began or ended inside a token."""
        self._pool, self._labels = pool, labels
        self._key, self._mode = spans_key, alignment_mode
        self._saved = saved
        self._process = os.getpid()

    def __call__(self, doc: Doc) -> Doc:
        """Annotate one document; `nlp.pipe` on many is far faster."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 64) -> Iterator[Doc]:
        """Annotate documents, `batch_size` at once. Engines answer in parallel; UsageError unless `n_process` is 1."""
        if os.getpid() != self._process:
            # Each would start engines of its own, or wait for ever for a Ray session that a fork does not have.
            raise UsageError(_ONE_PROCESS)
        self.ensemble.start()
        for docs in minibatch(stream, batch_size):
            annotated = self.ensemble.annotate([doc.text for doc in docs], self._pool, self._labels)
            before, found = self.misaligned, sum(len(document.entities) for document in annotated)
            for doc, document in zip(docs, annotated, strict=True):
                self._set(doc, document)
            # No text and no reason, which might quote it: both are at the document.
            statuses = Counter(document.status for document in annotated if document.status != "ok")
            for status, number in statuses.items():
                logger.warning(
                    "%d of %d documents are %s; `error` in their spans' attrs says why", number, len(docs), status
                )
            if self.misaligned > before:
                fate = {"strict": "left out", "contract": "cut to whole tokens", "expand": "widened to whole tokens"}
                logger.warning(
                    "%d of %d entities begin or end inside a token and were %s",
                    self.misaligned - before,
                    found,
                    fate[self._mode],
                )
            yield from docs

    def __reduce__(self) -> NoReturn:
        """Raise UsageError: where processes are not forked, spaCy would send them pickled components."""
        raise UsageError(_ONE_PROCESS)

    def to_disk(self, path: Path, *, exclude: Iterable[str] = ()) -> None:
        """Nothing: spaCy saves the settings. Raises UsageError where loading them would give others."""
        self._check_saved()

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """As `to_disk`."""
        self._check_saved()
        return b""

    def _check_saved(self) -> None:
        for field, value in self._saved.items():
            if not _survives({field: value}):
                raise UsageError(
                    f"el4ner: {field}: spaCy's config.cfg would change it ('$', or ':', '#', ';' or '[' in the name of "
                    "a label); give the pool as a file, labels and fields in a YAML file that `config` names, and "
                    "names without '$'"
                )

    def close(self) -> None:
        """End the engines; the next document would start them again."""
        self.ensemble.close()

    def _set(self, doc: Doc, document: "AnnotatedDocument") -> None:
        kept = []
        for entity in document.entities:
            span = doc.char_span(entity.start, entity.end, label=entity.type, alignment_mode=self._mode)
            if span is None or (span.start_char, span.end_char) != (entity.start, entity.end):
                self.misaligned += 1
            if span:
                kept.append((span, entity))
        doc.spans[self._key] = [span for span, _ in kept]
        doc.spans[self._key].attrs.update(
            scores=[entity.score for _, entity in kept],
            offsets=[[entity.start, entity.end] for _, entity in kept],
            votes=[[[model, type_] for model, type_ in entity.votes] for _, entity in kept],
            extracted_by=[list(entity.extracted_by) for _, entity in kept],
            verified=[entity.verified for _, entity in kept],
            status=document.status,
            error=document.error,
        )


def _survives(settings: dict[str, Any]) -> bool:
    """Whether spaCy reads them as it was given them: some characters are syntax of its files."""
    given = Config({"components": {"el4ner": settings}})
    try:
        # As `spacy.load` reads it: first as it stands, then with its variables in their places.
        return bool(Config().from_str(given.to_str(), interpolate=False).interpolate() == given)
    except (ValueError, KeyError, configparser.Error):
        return False
