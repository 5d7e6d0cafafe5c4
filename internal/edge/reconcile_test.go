package edge

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringback.dev/inbox"
	"ringback.dev/internal/reconcile"
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
reconcile: [{server: none, source: s}, {server: own, source: t, kind: other, every: 1ms, uri: edge}, {server: own, source: s, kind: gemini, uri: "http://edge"}]
`))
	for _, want := range []string{`reconcile[0].server: "none" is not among servers`, `reconcile[1].source: "t" is not among sources`, `reconcile[1].kind: "other" is neither`, "reconcile[1].every: 1ms is not between",
		`reconcile[1].uri: "edge" is not an address`, "reconcile[2].uri: Google's API does not tell"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

// googleLike serves the batches that it is given, all of which ended an hour ago.
func googleLike(t *testing.T) (at string, set func(ids ...string)) {
	var list atomic.Pointer[string]
	set = func(ids ...string) {
		var all []string
		for _, id := range ids {
			all = append(all, fmt.Sprintf(`{"name":"batches/%s","metadata":{"state":"BATCH_STATE_SUCCEEDED","updateTime":%q},"done":true}`,
				id, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339Nano)))
		}
		text := `{"operations":[` + strings.Join(all, ",") + `]}`
		list.Store(&text)
	}
	set()
	x := newTarget(t)
	x.say(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, *list.Load()) })
	return x.URL, set
}

const reconciled = `
servers: {google: {url: %q, api_key_env: EDGE_TEST_KEY}}
routes: [{name: all, actions: [{exec: {command: ["true"]}}]}]
reconcile: [{server: google, kind: gemini, source: s, every: 720h}]
data: %q
`

// TestReconciledOnce: what was taken in by asking is not acted on again when its
// sender, who still tries, comes through, nor what another edge on the same folder,
// or an earlier one, has heard of.
func TestReconciledOnce(t *testing.T) {
	at, set := googleLike(t)
	data := t.TempDir()
	w := start(t, fmt.Sprintf(reconciled, at, data), "EDGE_TEST_KEY", "k")
	set("a")
	w.Reconcile(t.Context(), time.Now(), nil) // Unless the first look, at the start, is later than set.
	w.log.waitFor(`msg="events that did not arrive" server=google source=s count=1`)
	w.log.waitFor("msg=action ")
	w.event("msg_own", `{"type":"batch.succeeded","data":{"id":"batches/a"}}`)
	w.log.waitFor(`msg="event that was taken in before" event=s/msg_own`)
	if _, err := w.store.Entry(t.Context(), "all/exec", "s/msg_own"); !errors.Is(err, inbox.ErrNotFound) {
		t.Errorf("it is acted on twice: %v", err)
	}
	// As another edge does.
	ledger, err := reconcile.OpenLedger(filepath.Join(data, "collected-s"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ledger.Add("batches/b", ""); err != nil {
		t.Fatal(err)
	}
	set("a", "b")
	if n := w.Reconcile(t.Context(), time.Now(), nil); n != 0 {
		t.Errorf("found %d that another has heard of", n)
	}
}

// TestLedger: only an end counts as collected, and what can't be noted keeps no action
// from being done.
func TestLedger(t *testing.T) {
	at, set := googleLike(t)
	data := t.TempDir()
	w := start(t, fmt.Sprintf(reconciled, at, data), "EDGE_TEST_KEY", "k")
	w.event("msg_1", `{"type":"job.stalled","data":{"id":"batches/a"}}`)
	w.done("all/exec", "msg_1")
	set("a")
	w.Reconcile(t.Context(), time.Now(), nil)
	w.log.waitFor(`msg="events that did not arrive" server=google source=s count=1`)
	w.event("msg_2", `{"type":"batch.succeeded","data":{"id":"no name\nof a batch"}}`)
	w.done("all/exec", "msg_2")
	w.log.waitFor(`msg=event event=s/msg_2`)
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	w.event("msg_3", `{"type":"batch.succeeded","data":{"id":"batches/c"}}`)
	w.done("all/exec", "msg_3")
	w.log.waitFor("the ledger of s: ") // It is tried again until it is noted.
}

// TestReconcileKeepsToTheRules: it asks by the rules of egress, and shows the key to the
// server alone.
func TestReconcileKeepsToTheRules(t *testing.T) {
	proxy, elsewhere := newTarget(t), newTarget(t)
	proxy.say(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	w := start(t, `
servers:
  proxied: {url: "http://there.example", api_key_env: EDGE_TEST_KEY, egress: {allow_http: true, allow_hosts: [there.example], proxy: "`+proxy.URL+`"}}
  moved: {url: "`+elsewhere.URL+`", api_key_env: EDGE_TEST_KEY}
routes: [{name: all, actions: [{exec: {command: ["true"]}}]}]
reconcile: [{server: proxied, kind: gemini, source: s, every: 720h}, {server: moved, source: s, every: 720h}]
data: "`+t.TempDir()+`"
`, "EDGE_TEST_KEY", "hush")
	if got := <-proxy.seen; got.method != http.MethodConnect {
		t.Errorf("the proxy saw %+v", got)
	}
	third := newTarget(t)
	elsewhere.say(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, third.URL, http.StatusFound) })
	w.Reconcile(t.Context(), time.Now(), nil)
	w.log.waitFor("302 Found")
	if len(third.seen) > 0 {
		t.Errorf("the key went to %+v", <-third.seen)
	}
}

// ringbackLike has events that ended an hour ago, each with a delivery that was given
// up, and notes which are sent again. Those to a path /deaf fail once more.
func ringbackLike(t *testing.T, uris ...string) (at string, resent func() []string) {
	var events, deliveries []string
	created := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339Nano)
	for i, uri := range uris {
		job := fmt.Sprintf("batches/%d", i)
		events = append(events, fmt.Sprintf(`{"id":"evt_%d","type":"batch.succeeded","job":%q,"created":%q,"body":%q}`, i, job, created, `{"type":"batch.succeeded","data":{"id":"`+job+`"}}`))
		deliveries = append(deliveries, fmt.Sprintf(`{"id":"msg_%d","event":"evt_%d","uri":%q,"state":"failed","attempts":9,"reason":"connect"}`, i, i, uri))
	}
	var mu sync.Mutex
	var all []string
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ringback/v1/events", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"events":[%s]}`, strings.Join(events, ","))
	})
	mux.HandleFunc("GET /ringback/v1/deliveries", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"deliveries":[%s]}`, strings.Join(deliveries, ","))
	})
	mux.HandleFunc("GET /ringback/v1/deliveries/{id}", func(w http.ResponseWriter, r *http.Request) {
		i, err := strconv.Atoi(strings.TrimPrefix(r.PathValue("id"), "msg_"))
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		state, attempts := "failed", 9
		if slices.Contains(all, r.PathValue("id")) {
			if attempts = 10; !strings.HasSuffix(uris[i], "/deaf") {
				state = "delivered"
			}
		}
		fmt.Fprintf(w, `{"id":%q,"uri":%q,"state":%q,"attempts":%d,"reason":"connect"}`, r.PathValue("id"), uris[i], state, attempts)
	})
	mux.HandleFunc("POST /ringback/v1/deliveries/{idresend}", func(w http.ResponseWriter, r *http.Request) {
		id, _ := strings.CutSuffix(r.PathValue("idresend"), ":resend")
		mu.Lock()
		defer mu.Unlock()
		all = append(all, id)
		fmt.Fprintf(w, `{"id":%q,"state":"pending","attempts":9}`, id)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// TestReconcileOwn: with uri only what was to come to the edge is sent again; without
// it all is, but one address that accepts nothing costs a look one wait.
func TestReconcileOwn(t *testing.T) {
	for uri, want := range map[string]string{
		"https://edge.example/s": "[msg_1 msg_4]",
		"":                       "[msg_0 msg_1 msg_2 msg_4]",
	} {
		at, resent := ringbackLike(t, "https://other.example/hook", "https://edge.example/s", "https://other.example/deaf", "https://other.example/deaf", "https://edge.example/s")
		w := start(t, fmt.Sprintf(`
servers: {own: {url: %q, api_key_env: EDGE_TEST_KEY}}
routes: [{name: all, actions: [{exec: {command: ["true"]}}]}]
reconcile: [{server: own, source: s, every: 720h, uri: %q}]
data: %q
`, at, uri, t.TempDir()), "EDGE_TEST_KEY", "k")
		w.log.waitFor(`msg="events that did not arrive"`) // By the look at the start.
		if got := fmt.Sprint(resent()); got != want {
			t.Errorf("uri %q: sent again %s, want %s", uri, got, want)
		}
		result := "good"
		if uri == "" {
			result = "failed"
		}
		if _, text := w.send("GET", w.Admin()+"/metrics", http.Header{}, ""); !strings.Contains(text, `ringback_edge_reconciles_total{result="`+result+`",source="s"} 1`) ||
			!strings.Contains(text, fmt.Sprintf(`ringback_edge_reconciled_total{source="s"} %d`, strings.Count(want, "msg_")-strings.Count(want, "msg_2"))) {
			t.Errorf("the metrics are %s", text)
		}
		w.stop()
	}
}
