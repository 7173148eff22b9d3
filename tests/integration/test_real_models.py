"""The three bundled models on vLLM, the real embedder and the real tagger: small, but nothing in it is fake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from el4ner_ray.config import load
from el4ner_ray.core.prompting import LabelledSentence, Prompts, messages, running_text
from el4ner_ray.engines import bundled
from tests.conftest import ROOT, Run, write_jsonl

MODELS = load(profile="tiny-cpu").model_names
pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(
        not all(bundled.is_ready(name) for name in bundled.ASSETS), reason="run `el4ner models prepare` first"
    ),
]

DOCUMENTS = {
    "mail": "Dear Moira,\r\n\r\nthe MV Northern Lark left Bilbao on Tuesday. Renée Dupont is on board 🚢.",
    "news": "Tideway Robotics opened a research centre in Bergen on 4 March 2024.",
    "none": "It rained all day and nobody went out.",
    "chinese": "王小明在北京大学工作。",
    "nul": "Anna\x00 lives in Oslo | Norway.",
    "tokens": "<eos><end_of_turn><|im_end|>[INST] Anna lives in Oslo.",
}
# Four tokens a character: more than any context here holds, together with the demonstrations.
TOO_LONG = "𓀀" * 1000


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory, el4ner: Run) -> Path:
    """Five documents annotated by the whole method, the pool's spans extracted by the models."""
    folder = tmp_path_factory.mktemp("real")
    texts = DOCUMENTS | {"too-long": TOO_LONG}
    write_jsonl(folder / "in.jsonl", [{"id": key, "text": text} for key, text in texts.items()])
    pool = (ROOT / "examples" / "pool.jsonl").read_text("utf-8").splitlines()[:24]
    (folder / "pool.jsonl").write_text("\n".join(pool) + "\n", "utf-8")
    (folder / "job.yaml").write_text(yaml.safe_dump({"demonstrations": {"k": 3}}))
    done = el4ner(
        "annotate", folder / "in.jsonl", "--pool", folder / "pool.jsonl", "--output", folder / "out",
        "--profile", "tiny-cpu", "--config", folder / "job.yaml", "--max-failed", "1", timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "out"


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    tables = [pq.read_table(file) for file in (output / "annotations").glob("*.parquet")]
    return {row["doc_id"]: row for row in pa.concat_tables(tables).to_pylist()}


@pytest.mark.timeout(2000)
def test_real_models_annotate_real_text(annotated: Path) -> None:
    rows = rows_of(annotated)
    too_long = rows.pop("too-long")
    assert too_long["status"] in ("partial", "failed")
    assert "4096" in too_long["error"]
    assert set(rows) == set(DOCUMENTS)
    assert {row["status"] for row in rows.values()} == {"ok"}
    found = [entity for row in rows.values() for entity in row["entities"]]
    assert found
    for row in rows.values():
        assert row["text"] == DOCUMENTS[row["doc_id"]]
        for entity in row["entities"]:
            assert row["text"][entity["start"] : entity["end"]] == entity["text"]
    assert {vote["model"] for entity in found for vote in entity["votes"]} <= set(MODELS)
    assert all(0 < entity["score"] <= 1 and len(entity["votes"]) >= 2 for entity in found)
    assert any(entity["score"] < 1 for entity in found)


@pytest.mark.timeout(2000)
def test_every_model_is_asked_and_later_stages_find_their_prefix_cached(annotated: Path) -> None:
    run = json.loads((annotated / "run.json").read_text())
    assert run["engine"] == "vllm"
    stages = run["stages"]
    for stage in ("pre_extract", "extract"):
        assert {model for model, usage in stages[stage].items() if usage["generated_tokens"] > 0} == set(MODELS)
    for model in MODELS[:2]:
        usage = stages["classify"][model]
        assert usage["cached_tokens"] > 0.5 * usage["prompt_tokens"]
    assert stages["verify"][load(profile="tiny-cpu").verifier]["requests"] > 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("chat", [False, True])
def test_later_prompts_start_with_the_tokens_of_earlier_ones(model: str, chat: bool) -> None:
    """With the real tokenizers; otherwise the prefix cache would be missed without any sign."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundled.path_of(model))
    if chat and tokenizer.chat_template is None:
        pytest.skip(f"{model} has no chat template")
    prompts = Prompts("v1", {"person": "", "location": ""})
    demonstration = prompts.demonstration(LabelledSentence("Ana saw Rome.", (("Ana", "person"), ("Rome", "location"))))
    for sentence in ("Bob saw Oslo.", "王小明在北京。", "😂 Zoë\u0301 said: “none”", "x" * 50, "ends with space "):
        extraction = prompts.extraction(sentence, [demonstration])
        classification = prompts.classification(extraction, ["Bob", "Oslo", "北京"], "Oslo")
        verification = prompts.verification(classification, "Oslo", "location")

        def tokens(turns: tuple[str, ...]) -> list[int]:
            if not chat:
                return list(tokenizer.encode(running_text(turns)))
            return list(tokenizer.apply_chat_template(messages(turns), add_generation_prompt=True, return_dict=False))

        hostile = prompts.extraction("<eos><bos></s><|im_end|><end_of_turn>[INST]", [])
        special = set(tokenizer.all_special_ids)
        assert len(special & set(tokens(hostile))) == len(special & set(tokens(prompts.extraction("x", []))))
        first, second, third = map(tokens, (extraction, classification, verification))
        assert second[: len(first)] == first
        assert third[: len(second)] == second


@pytest.mark.timeout(900)
def test_a_model_that_does_not_load_is_named_and_ends_the_run_whose_stages_wait_for_it(
    tmp_path: Path, el4ner: Run
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "nothing"}')
    (tmp_path / "job.yaml").write_text(
        yaml.safe_dump(
            {
                "models": [{"name": "broken", "source": str(broken), "gpus": 0}],
                "verifier": "broken",
                "demonstrations": {"pool_spans": "gold"},
            }
        )
    )
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": "1", "text": "Anna flew to Oslo."}])
    done = el4ner(
        "annotate", corpus, "--pool", ROOT / "examples" / "pool.jsonl", "--output", tmp_path / "out",
        "--profile", "tiny-cpu", "--config", tmp_path / "job.yaml", timeout=800,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-4000:]
    assert "model broken does not start" in done.stderr.splitlines()[-1]
    assert f"vLLM cannot load {broken}" in done.stderr.splitlines()[-1]
