package e2e

import (
	"path/filepath"
	"testing"
)

// TestClients runs the tests of the packages for receivers, which share their
// vectors with the Go package webhook.
func TestClients(t *testing.T) {
	out := runner(t, "../clients/javascript", nil, node(t), "--test", "--test-reporter=tap", "test/")
	count(t, "clients/javascript", out, `(?m)^# pass (\d+)$`, `(?m)^# (?:fail|skipped|cancelled|todo) ([1-9]\d*)$`)
	python := filepath.Join(cache(t, "python3"), "bin", "python")
	out = runner(t, "../clients/python", []string{"PYTHONDONTWRITEBYTECODE=1"}, python, "-m", "unittest", "discover", "-v", "tests")
	count(t, "clients/python", out, `(?m)^Ran (\d+) tests?`, `(?m)^FAILED|skipped=`)
}

// TestV1a looks at the asymmetric scheme, on a server of its own because it
// changes how the project's callbacks are signed.
func TestV1a(t *testing.T) {
	s := dev(t)
	out := runner(t, jsFolder(t, "genai3", "js/v1a.test.mjs"), env(s), node(t), "--test", "--test-reporter=tap")
	count(t, "v1a", out, `(?m)^# pass (\d+)$`, `(?m)^# (?:fail|skipped|cancelled|todo) ([1-9]\d*)$`)
}
