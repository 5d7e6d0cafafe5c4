package crashtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"ringback.dev/internal/crash"
)

const upstreamKills = 3

// TestKillAtEveryStepOfHandingOver kills the server at each step of batches that it
// hands over. A second server is their provider: it must have had each batch once.
func TestKillAtEveryStepOfHandingOver(t *testing.T) {
	binary := build(t)
	up := newWorld(t, binary, "--emulator")
	up.start("")
	t.Setenv("UPSTREAM_KEY", up.key)
	file := filepath.Join(t.TempDir(), "ringback.yaml")
	text := fmt.Sprintf("backends:\n  up: {type: gemini, url: %q, api_key_env: UPSTREAM_KEY}\nmodels:\n  - {match: \"*\", backend: up}\n", up.url)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, binary, "--config", file)
	kills := 0
	for _, step := range append(crash.UpstreamSteps(), crash.EndDecided, crash.EndCommitted) {
		for n := range upstreamKills {
			nth := 1
			if step == crash.RowsAnswered || step == crash.RowsRecorded {
				nth = 1 + n // Further shards.
			}
			w.start(fmt.Sprintf("%s:%d", step, nth))
			w.submitBatch(stepRows)
			w.killedAt(step)
			kills++
		}
		w.start("")
		w.everyCallback()
		w.checkBatches()
		w.stop()
	}
	batches, doubles := w.receiver.check(t, w.acknowledged)
	var there struct{ Events []struct{ Type string } }
	if err := up.get("/ringback/v1/events?limit=1000", &there); err != nil {
		t.Fatal(err)
	}
	up.stop()
	w.receiver.mu.Lock()
	defer w.receiver.mu.Unlock()
	if len(there.Events) != len(w.receiver.arrived) {
		t.Errorf("the provider has had %d batches, there were %d", len(there.Events), len(w.receiver.arrived))
	}
	fmt.Printf("crash: %d kills while batches are handed over, %d batches of %d rows acknowledged, 0 lost, each created once at the provider, each row once and in order, %d callbacks doubled\n",
		kills, batches, stepRows, doubles)
}
