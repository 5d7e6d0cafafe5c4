#!/usr/bin/env bash
# Installs the released SDKs that the end-to-end tests run. With --where NAME it prints where the
# packages of js, python2 or python3 are.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
e2e=$here/e2e

js=$(folder e2e-js "$e2e/js/package.json" "$e2e/js/package-lock.json")
python2=$(folder e2e-python2 "$e2e/python/requirements-2.txt")
python3=$(folder e2e-python3 "$e2e/python/requirements-3.txt")
if [ "${1:-}" = --where ]; then
  case "${2:-}" in
    js | python2 | python3) echo "${!2}" ;;
    *) echo "usage: setup-e2e.sh [--where js|python2|python3]" >&2; exit 2 ;;
  esac
  exit 0
fi

npm_packages() {
  cp "$e2e/js/package.json" "$e2e/js/package-lock.json" "$1/"
  (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
}

need node nodejs npm
need npm npm
need curl curl
need_python
once "$js" npm_packages
once "$python2" venv "$e2e/python/requirements-2.txt"
once "$python3" venv "$e2e/python/requirements-3.txt"
