"""Whether the demonstrations of a pool fit the models' context, estimated before any model loads."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from el4ner_ray.config import JobConfig
from el4ner_ray.core.prompting import LabelledSentence, Prompts, running_text
from el4ner_ray.labelled import LabelledText

# Prompts over GENIA had 3.8 to 4.2 for the tokenizers of the bundled models, over WNUT17 3.2 to 3.7: rather too few
# tokens are estimated than too many.
_BYTES_PER_TOKEN = 4


def overlong(texts: Sequence[LabelledText], config: JobConfig, labels: Mapping[str, str]) -> str | None:
    """What to tell where the `k` longest texts, shown together, leave too little of a model's context; else None.

    Of the models that say `max_model_len`, that of the shortest context is looked at.
    """
    contexts = {model.name: model.engine.get("max_model_len") for model in config.models}
    said = {name: tokens for name, tokens in contexts.items() if isinstance(tokens, int)}
    if not said:
        return None
    model = min(said, key=lambda name: said[name])
    longest = heapq.nlargest(config.demonstrations.k, texts, key=lambda text: len(text.text))
    needed = _estimated_tokens(longest, config, labels)
    if needed <= said[model]:
        return None
    first = longest[0]
    return (
        f"id {first.id!r} has {len(first.text):,} characters, and a prompt that shows the {len(longest)} longest texts "
        f"needs about {needed:,} tokens of model {model}, whose engine.max_model_len is {said[model]:,}; sentences "
        "of longer prompts fail, so cut the pool's texts into sentences, lower demonstrations.k or raise max_model_len"
    )


def _estimated_tokens(shown: Sequence[LabelledText], config: JobConfig, labels: Mapping[str, str]) -> int:
    """Of an extraction with these demonstrations and its answer, about a sentence as long as one may be."""
    prompts = Prompts(config.prompts, labels)
    demonstrations = [prompts.demonstration(LabelledSentence(text.text, text.mentions)) for text in shown]
    turns = prompts.extraction("x" * config.limits.sentence_characters, demonstrations)
    return len(running_text(turns).encode("utf-8", "replace")) // _BYTES_PER_TOKEN + config.limits.answer_tokens
