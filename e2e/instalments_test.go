package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstalments: a server that must not let a request wait for long answers an
// interaction in the foreground by instalments. The SDKs ask again by themselves,
// so that their caller notices nothing, but for Python's 2.x.
func TestInstalments(t *testing.T) {
	s := dev(t, "--answer-within", "100ms")
	check := func(sdk string, itself bool, out string) {
		t.Helper()
		got := decode[struct {
			Again                      int
			ID, Status, Text, Previous string
		}](t, out)
		if got.Status != "completed" || !strings.Contains(got.Text, "Take your time.") || itself != (got.Again == 0) || got.Previous != "" {
			t.Errorf("%s: unexpected answer %+v", sdk, got)
		}
		fmt.Printf("e2e instalments %s: asked again %d times by hand\n", sdk, got.Again)
	}
	check("genai3", true, runner(t, jsFolder(t, "genai3", "js/instalments.mjs"), env(s), node(t), "instalments.mjs"))
	check("genai2", true, runner(t, jsFolder(t, "genai2", "js/instalments.mjs"), env(s), node(t), "instalments.mjs"))
	check("python3", true, runner(t, "python", env(s), filepath.Join(cache(t, "python3"), "bin", "python"), "instalments.py"))
	check("python2", false, runner(t, "python", env(s), filepath.Join(cache(t, "python2"), "bin", "python"), "instalments.py"))

	got := create(t, goClient(t, s, "any"), `{"model":"late-model","input":"Take your time."}`)
	if got.Status != "completed" || !strings.Contains(*got.OutputText, "Take your time.") || len(got.ContinuationIds) != 1 {
		t.Errorf("go: unexpected answer %s", marshal(t, got))
	}
}
