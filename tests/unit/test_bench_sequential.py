"""The plain implementation on `transformers` that the pipeline is compared with: no more work than it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config

from benchmarks.sequential import TransformersModel, at_equal_distances

_SIZES = {
    "vocab_size": 128,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class Letters:
    """A tokenizer with a token for each letter."""

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str = "pt") -> torch.Tensor:
        return torch.tensor([[ord(letter) for letter in text]])


class Counted:
    """A model whose rows of logits are counted."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.rows: list[int] = []

    def __call__(self, ids: torch.Tensor, **more: Any) -> Any:
        answer = self._model(ids, **more)
        self.rows.append(answer.logits.shape[1])
        return answer


@pytest.mark.parametrize("family", [LlamaConfig, Gemma3TextConfig, Qwen2Config])
@pytest.mark.parametrize(("choices", "rows"), [(("a", "bc", "c"), [1]), (("ab", "ac", "abcd"), [3, 3, 5])])
def test_only_the_logits_that_are_read_are_computed(family: Any, choices: tuple[str, ...], rows: list[int]) -> None:
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(family(**_SIZES)).eval()
    plain = object.__new__(TransformersModel)
    # As with a chat template, a choice stands without a space; the prompt is as it comes.
    plain._tokenizer, plain._model, plain._device, plain._chat = Letters(), Counted(whole), "cpu", True
    plain.computed_tokens = 0
    prompt = "Anna met Ben. Anna:"
    plain._prompt = lambda turns: Letters().encode("".join(turns))
    found, probability = plain.choose((prompt,), choices)
    assert plain._model.rows == rows
    answers = [""] if len(rows) == 1 else choices
    assert plain.computed_tokens == sum(len(prompt + answer) for answer in answers)

    def score(choice: str) -> float:
        """Of the choice, or of its first token where that tells it, from all logits."""
        told = choice if len(rows) > 1 else choice[0]
        ids = Letters().encode(prompt + told)
        with torch.inference_mode():
            logprobs = torch.log_softmax(whole(ids).logits[0].float(), -1)
        return float(sum(logprobs[len(prompt) - 1 + i, ord(letter)] for i, letter in enumerate(told)))

    scores = torch.tensor([score(choice) for choice in choices])
    assert found == choices[int(scores.argmax())]
    assert probability == pytest.approx(float(scores.softmax(0).max()), abs=1e-5)


@pytest.mark.parametrize(
    ("count", "of", "chosen"),
    [
        (3, 9, [0, 3, 6]),
        (60, 100, [number * 100 // 60 for number in range(60)]),
        (20, 10, list(range(10))),
        (5, 5, list(range(5))),
        (4, 0, []),
    ],
)
def test_sentences_at_equal_distances(count: int, of: int, chosen: list[int]) -> None:
    assert at_equal_distances(range(of), count) == chosen
