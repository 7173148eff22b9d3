#!/usr/bin/env bash
# F1 of the ensemble and of each of its models on the same sentences, and how far two runs differ.
# usage: benchmarks/real_text.sh DATA OUT   (DATA/train.jsonl: the pool, its first 300; DATA/dev.jsonl: 40 sentences)
set -euo pipefail
data=$1 out=$2
mkdir -p "$out"
head -n 300 "$data/train.jsonl" > "$out/pool.jsonl"
head -n 40 "$data/dev.jsonl" > "$out/gold.jsonl"
el4ner=${EL4NER:-.venv/bin/el4ner}

# Each line is a sentence already.
measure() { # NAME OPTIONS...
  local name=$1
  shift
  "$el4ner" annotate "$out/gold.jsonl" --pool "$out/index" --output "$out/$name" --segmenter none --force "$@" \
    > "$out/$name.log" 2>&1
  echo "== $name"
  "$el4ner" evaluate "$out/$name" --gold "$out/gold.jsonl" --output "$out/$name.json"
}

"$el4ner" index "$out/pool.jsonl" --output "$out/index"
measure ensemble
measure ensemble-again
for model in smollm2-135m gemma3-270m qwen2.5-coder-0.5b; do
  measure "$model" --models "$model"
done
"${PYTHON:-.venv/bin/python}" benchmarks/difference.py "$out/ensemble" "$out/ensemble-again"
