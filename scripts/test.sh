#!/usr/bin/env bash
# Runs the tests of the given module folders with the race detector and sums them up. It fails when a
# test fails or is skipped, or when none ran. Arguments for go test come after --.
#
#   scripts/test.sh . e2e -- -tags model -run TestModel
set -uo pipefail
cd "$(dirname "$0")/.."

modules=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  modules+=("$1")
  shift
done
[ $# -gt 0 ] && shift

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
for module in "${modules[@]}"; do
  echo "== go test -race ${*:-} in $module"
  (cd "$module" && go test -race -count=1 -v "$@" ./... 2>&1) | tee -a "$log" |
    grep --line-buffered -E '^(ok |FAIL|panic:|crash:|e2e |model:)|^ *--- (FAIL|SKIP)|_test\.go:[0-9]+:|^# |\.go:[0-9]+:[0-9]+:|DATA RACE'
  [ "${PIPESTATUS[0]}" = 0 ] || status=1
done

passed=$(grep -cE '^ *--- PASS' "$log")
failed=$(grep -cE '^ *--- FAIL' "$log")
skipped=$(grep -cE '^ *--- SKIP' "$log")
if [ "$failed" = 0 ] && [ $status != 0 ]; then
  echo "the tests failed to build or to run:"
  tail -n 40 "$log"
  failed=1
fi
[ "$skipped" = 0 ] || { echo "$skipped tests were skipped; all must run"; status=1; }
[ "$passed" != 0 ] || { echo "no test ran"; status=1; }
echo "$passed passed, $failed failed"
exit $status
