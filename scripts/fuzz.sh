#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time. Inputs are hardly made smaller: where goroutines
# work beside the target, its coverage varies, and Go would try for a minute each time.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10s}
grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r package; do
  grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$package"/*_test.go | cut -c6- | while read -r target; do
    echo "== $package $target"
    go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x | tail -n 2
  done
done
