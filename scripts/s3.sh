#!/usr/bin/env bash
# An S3-compatible store for tests: the Versity S3 Gateway, which keeps objects as files in a folder and
# verifies signatures and checksums as S3 does. Prints where the program is; it is built by Go if it was not.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
version=v1.8.0
store=$cache/versitygw-$version

build() {
  echo "building versitygw $version" >&2
  (cd / && GOBIN=$1 go install "github.com/versity/versitygw/cmd/versitygw@$version")
}

mkdir -p "$cache"
exec 9>"$store.lock" # Tests of several packages may ask at once.
flock 9
once "$store" build
echo "$store/versitygw"
