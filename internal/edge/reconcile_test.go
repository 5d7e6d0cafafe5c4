package edge

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// finish counts what actions send, by webhook-id.
type finish struct {
	*httptest.Server
	mu  sync.Mutex
	got map[string]int
}

func newFinish(t *testing.T) *finish {
	x := &finish{got: make(map[string]int)}
	x.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.got[r.Header.Get("Webhook-Id")]++
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(x.Close)
	return x
}

// A batch at Google whose callback never came is acted on once, however often it is
// found; one whose callback came is left alone, and so is one that ended just now.
func TestReconcileGemini(t *testing.T) {
	batch := func(id string, age time.Duration) string {
		return fmt.Sprintf(`{"name":"batches/%s","metadata":{"state":"BATCH_STATE_SUCCEEDED","updateTime":%q},"done":true}`, id, time.Now().Add(-age).UTC().Format(time.RFC3339Nano))
	}
	var mu sync.Mutex
	asked := 0
	google := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("X-Goog-Api-Key") != "k" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		list := batch("fresh", time.Second)
		if asked++; asked > 1 { // The first look finds nothing, so that a callback can come before the second.
			list += "," + batch("came", time.Hour) + "," + batch("lost", 2*time.Hour)
		}
		fmt.Fprintf(w, `{"operations":[%s]}`, list)
	}))
	t.Cleanup(google.Close)
	to := newFinish(t)
	w := start(t, fmt.Sprintf(`
data: %q
servers: {google: {url: %q, api_key_env: EDGE_TEST_KEY}}
routes: [{name: all, actions: [{http: {url: %q, unsigned: true}}]}]
reconcile: [{server: google, kind: gemini, source: s, every: 1s}]
`, t.TempDir(), google.URL, to.URL), "EDGE_TEST_KEY", "k")
	w.event("msg_came", `{"type":"batch.succeeded","data":{"id":"batches/came"}}`)
	w.done("all/http", "msg_came")
	w.log.waitFor(`msg="events that did not arrive" server=google source=s count=1`)
	found := 0
	w.log.until(func(line string) bool {
		if strings.Contains(line, "msg=action ") && strings.Contains(line, "type=batch.succeeded") && strings.Contains(line, "state=done") {
			found++
		}
		return found == 2
	})
	mu.Lock()
	until := asked + 2
	mu.Unlock()
	for tick := time.Tick(10 * time.Millisecond); ; <-tick { // It is found no more.
		mu.Lock()
		n := asked
		mu.Unlock()
		if n >= until {
			break
		}
	}
	w.stop()
	to.mu.Lock()
	defer to.mu.Unlock()
	if len(to.got) != 2 || to.got["msg_came"] != 1 {
		t.Errorf("acted on %v; want each of the two once", to.got)
	}
}

// TestReconcileConfig: what is wrong is named.
func TestReconcileConfig(t *testing.T) {
	t.Setenv("EDGE_TEST_SECRET", secret)
	_, err := prepare([]byte(base + `
servers: {own: {url: "http://127.0.0.1:1"}}
routes: [{name: all, actions: [{exec: {command: ["true"]}}]}]
reconcile: [{server: none, source: s}, {server: own, source: t, kind: other, every: 1ms}]
`))
	for _, want := range []string{`reconcile[0].server: "none" is not among servers`, `reconcile[1].source: "t" is not among sources`, `reconcile[1].kind: "other" is neither`, "reconcile[1].every: 1ms is not between"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}
