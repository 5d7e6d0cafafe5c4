#!/usr/bin/env bash
# Makes sure that Go is here, and the C compiler that its race detector needs.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

if ! command -v go >/dev/null 2>&1; then
  echo "go is missing; install Go 1.26 or newer from your distribution or https://go.dev/dl" >&2
  exit 1
fi
need gcc gcc libc6-dev
