package manage_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ringback.dev"
	"ringback.dev/internal/api/manage"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
	"ringback.dev/internal/store/sqlite"
)

// world is the API over a real store, with two projects and an operator.
type world struct {
	testing.TB
	st    *sqlite.Store
	hints bus.Bus
	emit  *emit.Emitter
	h     http.Handler
	srv   *httptest.Server
	keys  *keyring.Keyring

	mu      sync.Mutex
	now     time.Time
	rotated []string
}

// idle is a sender that sends nothing.
type idle struct{}

func (idle) Take(string, *ringback.Endpoint) bool { return false }
func (idle) Give(string)                          {}
func (idle) Hand(store.ClaimedDelivery)           {}
func (idle) Wake()                                {}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, now: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)}
	dir := t.TempDir()
	var err error
	w.st, err = sqlite.Open(t.Context(), dir)
	w.ok(err)
	w.keys, err = keyring.Open(dir)
	w.ok(err)
	for _, p := range []ringback.ID{"ours", "theirs"} {
		w.ok(w.st.CreateProject(t.Context(), ringback.Project{ID: p, Name: string(p), DynamicSignature: ringback.JWT, Created: w.now},
			&ringback.APIKey{ID: "key_" + p, Project: p, Name: "first", Prefix: "rbk_" + string(p), Hash: keyring.HashKey(string(p)), Created: w.now}, w.by()))
	}
	w.ok(w.st.CreateKey(t.Context(), ringback.APIKey{ID: "key_op", Name: "op", Hash: keyring.HashKey("operator"), Created: w.now}, w.by()))
	w.emit = emit.New(w.st, idle{}, &w.hints, "node", time.Minute, "")
	closing := make(chan struct{})
	w.h = manage.New(manage.Config{Store: w.st, Bus: &w.hints, Secrets: w.keys, Backoff: ringback.DefaultBackoff(), Closing: closing,
		Now: w.clock, Trigger: w.emit.Trigger,
		Authenticate: func(r *http.Request) (ringback.APIKey, error) {
			k, err := w.st.KeyByHash(r.Context(), keyring.HashKey(r.Header.Get("X-Goog-Api-Key")))
			if err != nil {
				err = &ringback.Error{Code: ringback.Unauthenticated, Message: "no such key"}
			}
			return k, err
		},
		Fail: func(rw http.ResponseWriter, _ *http.Request, err error) {
			status := map[ringback.Code]int{ringback.InvalidArgument: 400, ringback.FailedPrecondition: 400, ringback.Unauthenticated: 401,
				ringback.PermissionDenied: 403, ringback.NotFound: 404, ringback.MethodNotAllowed: 405, ringback.TooLarge: 413}[ringback.CodeOf(err)]
			var e *ringback.Error
			if status == 0 || !errors.As(err, &e) {
				t.Errorf("an error that is not for the caller: %v", err)
				status = 500
				e = &ringback.Error{}
			}
			rw.WriteHeader(status)
			_ = json.NewEncoder(rw).Encode(map[string]any{"error": map[string]string{"message": e.Message}})
		},
		RotateSigningKeys: func(_ context.Context, algorithm string, force bool, by store.By) error {
			w.rotated = append(w.rotated, fmt.Sprintf("rotate %s %v %s", algorithm, force, by.Actor))
			return nil
		},
		RevokeSigningKey: func(_ context.Context, kid string, by store.By) error {
			w.rotated = append(w.rotated, fmt.Sprintf("revoke %s %s", kid, by.Actor))
			return nil
		},
	})
	w.srv = httptest.NewServer(w.h)
	t.Cleanup(func() {
		close(closing)
		w.srv.Close()
		w.ok(w.st.Close())
	})
	return w
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) by() store.By { return store.By{Actor: "key_test", At: w.clock()} }

// call makes a request and returns status and body.
func (w *world) call(key, method, path, body string) (int, string) {
	w.Helper()
	r := httptest.NewRequest(method, "/ringback/v1/"+path, strings.NewReader(body))
	r.Header.Set("X-Goog-Api-Key", key)
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, r)
	return rec.Code, rec.Body.String()
}

// get makes a request that must succeed and decodes the answer.
func (w *world) get(key, method, path, body string) map[string]any {
	w.Helper()
	status, text := w.call(key, method, path, body)
	var v map[string]any
	if status != 200 || json.Unmarshal([]byte(text), &v) != nil {
		w.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	return v
}

// refused makes a request that must be answered with an error that says something.
func (w *world) refused(key, method, path, body string, status int, hint string) {
	w.Helper()
	got, text := w.call(key, method, path, body)
	var said struct{ Error struct{ Message string } }
	if json.Unmarshal([]byte(text), &said) == nil {
		text = said.Error.Message
	}
	if got != status || !strings.Contains(text, hint) {
		w.Errorf("%s %s %s: got %d %s, want %d with %q", method, path, body, got, text, status, hint)
	}
}

func (w *world) hook(id ringback.ID, events ...ringback.EventType) *ringback.Endpoint {
	w.Helper()
	e := &ringback.Endpoint{ID: id, Project: "ours", Name: "hook", URI: "https://" + string(id) + ".example/cb?token=secret", Events: events, State: ringback.Enabled,
		Secrets: []ringback.Secret{{Sealed: []byte("x"), Truncated: "whsec_...", Created: w.clock()}}, Created: w.clock(), Updated: w.clock()}
	w.ok(w.st.CreateEndpoint(w.Context(), e, w.by()))
	return e
}

// job makes a job that takes a second; it ends unless state is empty.
func (w *world) job(id ringback.ID, state ringback.State, dynamic *ringback.DynamicWebhooks) *ringback.Job {
	w.Helper()
	j := &ringback.Job{ID: id, Project: "ours", Kind: ringback.KindInteraction, Model: "m", Spec: []byte("{}"), Created: w.clock(), Updated: w.clock(), Webhooks: dynamic}
	w.ok(w.st.CreateJob(w.Context(), j, nil))
	w.pass(time.Second)
	if state != "" {
		w.ok(w.emit.EndJob(w.Context(), j, nil, &store.End{State: state, At: w.clock()}))
	}
	return j
}

// attempt claims what is due and records an attempt of each.
func (w *world) attempt(state ringback.DeliveryState, status int, reason string) {
	w.Helper()
	now := w.clock()
	claimed, err := w.st.ClaimDeliveries(w.Context(), "node", now, now.Add(time.Minute), 100, func(string, *ringback.Endpoint) int { return 100 })
	w.ok(err)
	for _, c := range claimed {
		w.ok(w.st.RecordAttempt(w.Context(), c.Lease, &store.Outcome{Target: c.Target, Endpoint: c.Endpoint, State: state, Due: now.Add(5 * time.Second), At: now.Add(20 * time.Millisecond),
			Attempt: ringback.Attempt{Delivery: c.ID, Number: c.Attempts + 1, Started: now, Status: status, Reason: reason, Answer: []byte("said"), Total: 20 * time.Millisecond, FirstByte: 19 * time.Millisecond}}))
	}
}

var completed = ringback.InteractionCompleted

// TestTimeline: each story, and the sentence that answers why.
func TestTimeline(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(w *world)
		why  string
	}{
		{"delivered", func(w *world) {
			w.hook("a", completed)
			w.job("v1_j", ringback.Completed, nil)
			w.attempt(ringback.DeliveryDelivered, 204, "accepted")
		}, `^Delivered\.$`},
		{"one of two", func(w *world) {
			w.hook("a", completed)
			w.job("v1_j", ringback.Completed, nil)
			w.attempt(ringback.DeliveryDelivered, 204, "accepted")
			w.hook("b", ringback.InteractionIncomplete)
			w.job("v1_k", ringback.Incomplete, nil)
		}, `^Delivered\.$`},
		{"retrying", func(w *world) {
			w.hook("a", completed)
			w.job("v1_j", ringback.Completed, nil)
			w.attempt(ringback.DeliveryPending, 503, "broken")
		}, `^Delivered: 0 of 1; still retrying https://a\.example/cb\?… until 2026-10-02T12:00:01Z, next at 2026-10-01T12:00:06Z; the last of 1 attempt met: broken\.$`},
		{"failed", func(w *world) {
			w.hook("a", completed)
			w.job("v1_j", ringback.Completed, nil)
			w.attempt(ringback.DeliveryFailed, 500, "broken")
		}, `^Delivered: 0 of 1; given up on https://a\.example/cb\?… after 1 attempt: broken\.$`},
		{"not subscribed", func(w *world) {
			w.hook("a", ringback.BatchFailed)
			w.hook("b", ringback.BatchFailed)
			w.job("v1_j", ringback.Completed, nil)
		}, `^Nothing was sent: 2 webhooks \(a, b\) are not subscribed to interaction\.completed\.$`},
		{"no webhook", func(w *world) { w.job("v1_j", ringback.Completed, nil) }, `^Nothing was sent: the project had no webhook`},
		{"disabled", func(w *world) {
			e := w.hook("a", completed)
			off := ringback.Disabled
			_, err := w.st.UpdateEndpoint(w.Context(), "ours", e.ID, store.EndpointPatch{State: &off}, w.by())
			w.ok(err)
			w.job("v1_j", ringback.Completed, nil)
		}, `kept for webhook a \(https://a\.example/cb\?…\), which is disabled since 2026-10-01T12:00:00Z`},
		{"replaced", func(w *world) {
			w.hook("a", completed)
			w.job("v1_j", ringback.Completed, &ringback.DynamicWebhooks{URIs: []string{"https://dyn.example/x?token=secret"}})
			w.attempt(ringback.DeliveryDelivered, 200, "accepted")
		}, `^Delivered\.$`},
		{"not ended", func(w *world) { w.job("v1_j", "", nil) }, `has not ended yet`},
		{"stalled", func(w *world) {
			w.hook("a", completed)
			j := w.job("v1_j", "", nil)
			w.ok(w.emit.Stalled(w.Context(), j, w.clock()))
		}, `^The job has not ended yet; its end will be told\.$`},
		{"stalled and told", func(w *world) {
			w.hook("a", ringback.JobStalled)
			j := w.job("v1_j", "", nil)
			w.ok(w.emit.Stalled(w.Context(), j, w.clock()))
			w.attempt(ringback.DeliveryDelivered, 204, "accepted")
		}, `has not ended yet; its end will be told\. That it stalled: Delivered\.$`},
		{"stalled, ended, unheard", func(w *world) {
			w.hook("a", ringback.BatchFailed)
			j := w.job("v1_j", "", nil)
			w.ok(w.emit.Stalled(w.Context(), j, w.clock()))
			w.ok(w.emit.EndJob(w.Context(), j, nil, &store.End{State: ringback.Incomplete, At: w.clock()}))
		}, `1 webhook \(a\) is not subscribed to interaction\.completed\.$`},
		{"swept", func(w *world) {
			w.job("v1_j", ringback.Completed, nil)
			_, _, err := w.st.Sweep(w.Context(), w.clock().Add(time.Hour), 10)
			w.ok(err)
		}, `no longer kept`},
		{"deleted", func(w *world) {
			w.hook("a", completed)
			w.job("v1_j", ringback.Completed, nil)
			w.attempt(ringback.DeliveryPending, 500, "broken")
			w.ok(w.st.DeleteEndpoint(w.Context(), "ours", "a", w.by()))
		}, `still retrying webhook a \(deleted\)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.do(w)
			v := w.get("ours", "GET", "jobs/v1_j/timeline", "")
			if why := v["why"].(string); !regexp.MustCompile(c.why).MatchString(why) {
				t.Errorf("why: %s", why)
			}
			last := time.Time{}
			for _, e := range v["timeline"].([]any) {
				at, err := time.Parse(time.RFC3339Nano, e.(map[string]any)["at"].(string))
				w.ok(err)
				if at.Before(last) {
					t.Errorf("%s after %s", at, last)
				}
				last = at
			}
			if text, _ := json.Marshal(v); strings.Contains(string(text), "secret") {
				t.Errorf("it holds the address's credential: %s", text)
			}
		})
	}
}

// TestLog walks the feed and the log of a few jobs.
func TestLog(t *testing.T) {
	w := newWorld(t)
	w.hook("a", completed)
	for i := range 5 {
		w.job(ringback.ID(fmt.Sprint("v1_", i)), ringback.Completed, nil)
		w.attempt([]ringback.DeliveryState{ringback.DeliveryDelivered, ringback.DeliveryFailed}[i%2], 200, "tested")
	}
	var ids, jobs []string
	after := ""
	for {
		v := w.get("ours", "GET", "events?limit=2&after="+after, "")
		after = v["next"].(string)
		page := v["events"].([]any)
		for _, e := range page {
			ids, jobs = append(ids, e.(map[string]any)["id"].(string)), append(jobs, e.(map[string]any)["job"].(string))
		}
		if len(page) == 0 {
			break
		}
	}
	if !slices.Equal(jobs, []string{"v1_0", "v1_1", "v1_2", "v1_3", "v1_4"}) {
		t.Errorf("got %v", jobs)
	}
	now := w.get("ours", "GET", "events?after=now", "")
	if now["next"] != after || now["last"] != ids[4] || len(now["events"].([]any)) != 0 {
		t.Errorf("got %v", now)
	}
	if now := w.get("theirs", "GET", "events?after=now", ""); now["last"] != nil {
		t.Errorf("got %v of nothing", now)
	}
	if v := w.get("ours", "GET", "events?from=2026-10-01T12:00:03Z&limit=1", ""); v["events"].([]any)[0].(map[string]any)["id"] != ids[2] {
		t.Errorf("got %v", v)
	}
	e := w.get("ours", "GET", "events/"+ids[0], "")
	d := e["deliveries"].([]any)[0].(map[string]any)
	if !strings.HasPrefix(e["body"].(string), `{"type":"interaction.completed"`) || d["state"] != "delivered" {
		t.Errorf("got %v", e)
	}
	one := w.get("ours", "GET", "deliveries/"+d["id"].(string), "")
	log := one["attempts_log"].([]any)[0].(map[string]any)
	if log["answer"] != "said" || log["timing"].(map[string]any)["total_ms"] != 20.0 || one["type"] != "interaction.completed" || one["job"] != "v1_0" {
		t.Errorf("got %v", one)
	}
	pages := 0
	for before := ""; ; pages++ {
		v := w.get("ours", "GET", "deliveries?state=failed&limit=1&before="+before, "")
		next, more := v["next"].(string)
		if before = next; !more {
			break
		}
	}
	if pages != 2 {
		t.Errorf("%d pages of failures", pages)
	}
	for filter, n := range map[string]int{"": 5, "?state=delivered": 3, "?webhook=a": 5, "?endpoint=a&types=ping": 0, "?event=" + ids[1]: 1, "?from=2026-10-01T12:00:02Z&to=2026-10-01T14:00:04%2B02:00": 2} {
		if got := len(w.get("ours", "GET", "deliveries"+filter, "")["deliveries"].([]any)); got != n {
			t.Errorf("%s: %d deliveries, want %d", filter, got, n)
		}
	}
	if got := w.get("ours", "GET", "jobs?state=completed&kind=interaction&limit=3", ""); len(got["jobs"].([]any)) != 3 || got["next"] == nil {
		t.Errorf("got %v", got)
	}
	// Again.
	if v := w.get("ours", "POST", "deliveries/"+d["id"].(string)+":resend", ""); v["state"] != "pending" || v["id"] != d["id"] {
		t.Errorf("got %v", v)
	}
	if v := w.get("ours", "POST", "deliveries:replay", `{"dry_run":true}`); v["count"] != 2.0 {
		t.Errorf("got %v", v)
	}
	r := w.get("ours", "POST", "deliveries:replay", `{"webhook":"a","state":"all","from":"2026-10-01T14:00:00+02:00"}`)
	for more := true; more; {
		var err error
		more, err = w.st.AdvanceReplay(t.Context(), w.clock(), 2)
		w.ok(err)
	}
	if v := w.get("ours", "GET", "replays/"+r["id"].(string), ""); v["state"] != "done" || v["count_sent"] != 4.0 {
		t.Errorf("got %v", v) // One is pending already.
	}
	if v := w.get("ours", "GET", "replays", ""); len(v["replays"].([]any)) != 1 {
		t.Errorf("got %v", v)
	}
}

func TestSettings(t *testing.T) {
	w := newWorld(t)
	w.hook("a", completed)
	v := w.get("ours", "PATCH", "webhooks/a", `{"signature_schemes":["v1","v1a"],"timeout_seconds":2.5,"max_in_flight":3,"rate_per_second":1.5,"retry_window_seconds":3600,
		"retry_schedule_seconds":[1,60],"headers":{"X-Tenant":"secret value","authorization":"Bearer secret"}}`)
	s := v["settings"].(map[string]any)
	if fmt.Sprint(s["signature_schemes"], s["timeout_seconds"], s["max_in_flight"], s["rate_per_second"], s["retry_window_seconds"], s["retry_schedule_seconds"], s["headers"]) !=
		"[v1 v1a] 2.5 3 1.5 3600 [1 60] [Authorization X-Tenant]" || len(v["public_keys"].([]any)) != 1 {
		t.Errorf("got %v", v)
	}
	e, err := w.st.Endpoint(t.Context(), "ours", "a")
	w.ok(err)
	if plain, err := w.keys.Unseal(e.Settings.Headers[1].Sealed, store.SealEndpoint+"a"); err != nil || string(plain) != "secret value" {
		t.Errorf("sealed %q, %v", plain, err)
	}
	v = w.get("ours", "PATCH", "webhooks/a", `{"timeout_seconds":null,"headers":null,"signature_schemes":["v1a"]}`)
	if s := v["settings"].(map[string]any); s["timeout_seconds"] != nil || len(s["headers"].([]any)) != 0 || s["max_in_flight"] != 3.0 || len(v["public_keys"].([]any)) != 1 {
		t.Errorf("got %v", v)
	}
	if _, text := w.call("ours", "GET", "webhooks/a", ""); strings.Contains(text, "secret value") {
		t.Error(text)
	}
	for body, hint := range map[string]string{
		`{"timeout_seconds":31}`: "timeout_seconds: 31 is not between 1 and 30", `{"timeout_seconds":"1"}`: "timeout_seconds: expected a number",
		`{"signature_schemes":["v2"]}`: "signature_schemes: expected", `{"signature_schemes":["v1","v1"]}`: "signature_schemes: expected", `{"signature_schemes":[]}`: "expected",
		`{"max_in_flight":0}`: "max_in_flight: 0 is not", `{"max_in_flight":1.5}`: "whole number", `{"retry_schedule_seconds":[]}`: "1 to 50", `{"retry_schedule_seconds":[0]}`: "retry_schedule_seconds[0]",
		`{"retry_schedule_seconds":[null]}`: "retry_schedule_seconds[0]",
		`{"headers":{"a b":"x"}}`:           "not the name of a header", `{"headers":{"Host":"x"}}`: "set by the server", `{"headers":{"webhook-id":"x"}}`: "set by the server", `{"headers":{"a":"x\r\ny: z"}}`: "visible ASCII",
		`{"headers":{"a":"1","A":"2"}}`: "given twice", `{"headers":[]}`: "expected an object", `{"client_certificate":"x"}`: "client_certificate: expected PEM", `{"colour":1}`: `unknown field "colour"`,
		`[]`: "expected an object", `{`: "not JSON", `{} {}`: "something follows", `{"rate_per_second":-1}`: "rate_per_second",
	} {
		w.refused("ours", "PATCH", "webhooks/a", body, 400, hint)
	}
}

func TestOperator(t *testing.T) {
	w := newWorld(t)
	v := w.get("operator", "POST", "projects", `{"name":"new","dynamic_signature":"v1a","audience":"x"}`)
	key := v["api_key"].(map[string]any)["key"].(string)
	if own := w.get(key, "GET", "project", ""); own["id"] != v["id"] || own["dynamic_signature"] != "v1a" || own["audience"] != "x" {
		t.Errorf("got %v", own)
	}
	id := v["id"].(string)
	if p := w.get("operator", "PATCH", "projects/"+id, `{"dynamic_signature":"jwt"}`); p["dynamic_signature"] != "jwt" || p["name"] != "new" {
		t.Errorf("got %v", p)
	}
	k := w.get("operator", "POST", "projects/"+id+"/keys", `{"name":"ci"}`)
	if list := w.get("operator", "GET", "projects/"+id+"/keys", "")["keys"].([]any); len(list) != 2 || strings.Contains(fmt.Sprint(list), k["key"].(string)) {
		t.Errorf("got %v", list)
	}
	w.get(k["key"].(string), "GET", "events", "")
	w.get("operator", "DELETE", "projects/"+id+"/keys/"+k["id"].(string), "")
	w.refused(k["key"].(string), "GET", "events", "", 401, "no such key")
	w.refused("operator", "DELETE", "projects/ours/keys/"+k["id"].(string), "", 404, "there is no key")
	if n := len(w.get("operator", "GET", "projects", "")["projects"].([]any)); n != 3 {
		t.Errorf("%d projects", n)
	}
	w.get("operator", "POST", "signing_keys:rotate", `{"algorithm":"RS256","force":true}`)
	w.get("operator", "POST", "signing_keys/abc:revoke", "")
	if !slices.Equal(w.rotated, []string{"rotate RS256 true key_op", "revoke abc key_op"}) {
		t.Errorf("got %q", w.rotated)
	}
	audit := w.get("operator", "GET", "audit?limit=3", "")
	if lines := audit["audit"].([]any); len(lines) != 3 || lines[0].(map[string]any)["action"] != "key.revoke" || lines[0].(map[string]any)["project"] != id {
		t.Errorf("got %v", audit)
	}
	if own := w.get("ours", "GET", "audit", "")["audit"].([]any); len(own) != 2 {
		t.Errorf("got %v", own)
	}
	w.refused("ours", "GET", "audit?before="+audit["next"].(string), "", 400, "before: it is not a cursor")
	for body, hint := range map[string]string{`{}`: "name: it is required", `{"name":""}`: "name: 1 to 256", `{"name":1}`: "name: got a number", `{"name":"a","dynamic_signature":"v1"}`: "neither jwt nor v1a", `{"nam":"a"}`: `unknown field "nam"`} {
		w.refused("operator", "POST", "projects", body, 400, hint)
	}
	w.refused("operator", "GET", "projects/none", "", 404, `there is no project "none"`)
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	e := w.hook("a", completed)
	w.job("v1_j", ringback.Completed, nil)
	list, err := w.st.ListDeliveries(t.Context(), "ours", store.DeliveryFilter{}, "", 1)
	w.ok(err)
	id := string(list[0].ID)
	for path, hint := range map[string]string{
		"events?limit=0": "limit:", "events?limit=x": "limit:", "events?after=x": "after: it is not a cursor", "events?from=today": "from:", "events?types=nonsense": `unknown event "nonsense"`, "events?colour=1": `unknown parameter "colour"; possible are after`,
		"events?limit=1&limit=2": "limit: it is given twice", "events?after=%ff": "UTF-8", "events?a=%zz": "malformed", "deliveries?state=lost": "state:", "deliveries?from=today": "from:", "deliveries?before=" + "ZXZlbnRzIDE": "before:",
		"jobs?kind=dance": "kind:", "jobs?state=dancing": "state:", "stream?after=x": "after:", "jobs/v1_j/timeline?x=1": "none is possible here",
	} {
		w.refused("ours", "GET", path, "", 400, hint)
	}
	w.refused("ours", "POST", "deliveries:replay", `{"state":"pending"}`, 400, "state:")
	w.refused("ours", "POST", "deliveries:replay", `{"webhook":"none"}`, 404, "there is no webhook")
	w.refused("ours", "POST", "deliveries:replay", `{"dry_run":1}`, 400, "dry_run: got a number")
	w.refused("ours", "POST", "deliveries:replay", strings.Repeat(" ", 2<<20), 413, "larger than")
	w.refused("ours", "DELETE", "events", "", 405, "allowed: GET")
	w.refused("ours", "GET", "nowhere", "", 404, "openapi.json")
	w.refused("", "GET", "events", "", 401, "no such key")
	w.refused("operator", "GET", "events", "", 403, "use a key of the project")
	w.refused("ours", "GET", "projects", "", 403, "needs an operator's key")
	off := ringback.Disabled
	_, err = w.st.UpdateEndpoint(t.Context(), "ours", e.ID, store.EndpointPatch{State: &off}, w.by())
	w.ok(err)
	w.refused("ours", "POST", "deliveries/"+id+":resend", "", 400, "is disabled; set its state to enabled")
	w.ok(w.st.DeleteEndpoint(t.Context(), "ours", e.ID, w.by()))
	w.refused("ours", "POST", "deliveries/"+id+":resend", "", 400, "was deleted")
}

// document is what is read of the OpenAPI document.
type document struct {
	OpenAPI  string
	Paths    map[string]map[string]struct{ Tags []string }
	Webhooks map[string]any
}

func openAPI(t *testing.T) document {
	t.Helper()
	data, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var d document
	var all map[string]any
	if err := errors.Join(json.Unmarshal(data, &d), json.Unmarshal(data, &all)); err != nil {
		t.Fatal(err)
	}
	for _, ref := range regexp.MustCompile(`"\$ref": "#/([^"]+)"`).FindAllStringSubmatch(string(data), -1) {
		var at any = all
		for part := range strings.SplitSeq(ref[1], "/") {
			m, ok := at.(map[string]any)
			if !ok || m[part] == nil {
				t.Fatalf("$ref %s leads nowhere", ref[1])
			}
			at = m[part]
		}
	}
	return d
}

// TestNobodyLetIn walks every route of the OpenAPI document with the keys of
// others: nothing of the project is seen or touched.
func TestNobodyLetIn(t *testing.T) {
	d := openAPI(t)
	if d.OpenAPI != "3.1.0" || len(d.Webhooks) != len(ringback.EventTypes())+1 {
		t.Errorf("OpenAPI %s with %d webhooks", d.OpenAPI, len(d.Webhooks))
	}
	w := newWorld(t)
	w.hook("hook-a", completed)
	w.job("v1_job", ringback.Completed, nil)
	w.attempt(ringback.DeliveryFailed, 500, "broken")
	r := w.get("ours", "POST", "deliveries:replay", "")["id"].(string)
	events, err := w.st.EventsAfter(t.Context(), "ours", store.EventFilter{}, 0, 10)
	w.ok(err)
	list, err := w.st.ListDeliveries(t.Context(), "ours", store.DeliveryFilter{}, "", 10)
	w.ok(err)
	names := map[string]string{"events/{id}": string(events[0].ID), "deliveries/{id}": string(list[0].ID), "deliveries/{id}:resend": string(list[0].ID), "replays/{id}": r,
		"jobs/{id}/timeline": "v1_job", "webhooks/{id}": "hook-a", "projects/{id}": "ours", "projects/{id}/keys": "ours", "projects/{id}/keys/{key}": "ours", "signing_keys/{id}:revoke": "kid"}
	before := w.get("operator", "GET", "audit?limit=1000", "")
	walked := 0
	for path, methods := range d.Paths {
		path = strings.TrimPrefix(path, "/ringback/v1/")
		concrete := strings.NewReplacer("{id}", names[path], "{key}", "key_ours").Replace(path)
		if strings.Contains(path, "{") && names[path] == "" {
			t.Errorf("%s is not in the test's table", path)
		}
		for method, op := range methods {
			method = strings.ToUpper(method)
			walked++
			if op.Tags[0] == "anybody" {
				if status, _ := w.call("", method, concrete, ""); status != 200 {
					t.Errorf("%s %s without a key: %d", method, concrete, status)
				}
				continue
			}
			w.refused("", method, concrete, "", 401, "no such key")
			if path == "stream" {
				continue // TestStream looks at it.
			}
			status, text := w.call("theirs", method, concrete, "")
			for _, id := range []string{string(events[0].ID), string(list[0].ID), r, "v1_job", "hook-a", "key_ours"} {
				// A name that the caller gave may be named in the refusal.
				if strings.Contains(strings.ReplaceAll(text, fmt.Sprintf("%q", names[path]), ""), id) && !strings.Contains(text, "there is no") {
					t.Errorf("%s %s shows %s of another project: %s", method, concrete, id, text)
				}
			}
			if strings.Contains(path, "{") && status != 404 && status != 403 {
				t.Errorf("%s %s with another project's key: %d %s", method, concrete, status, text)
			}
			if op.Tags[0] == "operator" && status != 403 {
				t.Errorf("%s %s with a project's key: %d", method, concrete, status)
			}
			if op.Tags[0] == "project" {
				w.refused("operator", method, concrete, "", 403, "key of the project")
			}
		}
	}
	if walked < 26 {
		t.Errorf("only %d routes", walked)
	}
	after := w.get("operator", "GET", "audit?limit=1000", "")
	// The other project's replay of its own nothing is all that happened.
	if n := len(after["audit"].([]any)) - len(before["audit"].([]any)); n > 1 {
		t.Errorf("%d changes: %v", n, after)
	}
}

// TestTrigger: an event that nothing caused is in the feed and goes to who is
// subscribed.
func TestTrigger(t *testing.T) {
	w := newWorld(t)
	w.hook("a", completed)
	w.hook("b", ringback.BatchFailed)
	e := w.get("ours", "POST", "events:trigger", `{"type":"interaction.completed","body":{ "type":"interaction.completed", "data":{"id":"\u0076 <1>","n":1.0}}}`)
	if want := `{"type":"interaction.completed","data":{"id":"v <1>","n":1}}`; e["body"] != want || len(e["deliveries"].([]any)) != 1 {
		t.Errorf("got %v", e)
	}
	if all := w.get("ours", "GET", "events?after=start", "")["events"].([]any); len(all) != 1 {
		t.Errorf("in the feed: %v", all)
	}
	e = w.get("ours", "POST", "events:trigger", `{"type":"ping","body":{"type":"ping"}}`)
	if len(e["deliveries"].([]any)) != 2 {
		t.Errorf("got %v", e)
	}
	for body, names := range map[string]string{`{}`: `unknown event ""`, `{"type":"batch.exploded"}`: "unknown event", `{"type":"ping","body":1}`: "body: it must be an object",
		`{"type":"ping","body":{"type":"batch.failed"}}`: `body: it must be an object whose type is "ping"`, `{"type":"ping","body":{"type":"ping","x":"` + strings.Repeat("x", 70<<10) + `"}}`: "larger than"} {
		w.refused("ours", "POST", "events:trigger", body, 400, names)
	}
}

// TestStream: a client that breaks off and resumes at every event sees each once,
// in order, while others are being added.
func TestStream(t *testing.T) {
	w := newWorld(t)
	w.hook("a", completed)
	const n = 40
	go func() {
		for i := range n {
			w.job(ringback.ID(fmt.Sprintf("v1_%03d", i)), ringback.Completed, nil)
		}
	}()
	first := w.get("ours", "GET", "events?limit=1", "")
	got, last := jobs(first), first["next"].(string)
	for len(got) < n {
		last = w.read(t, "", last, 1+len(got)%3, &got)
	}
	for i, j := range got {
		if j != fmt.Sprintf("v1_%03d", i) {
			t.Fatalf("got %v", got)
		}
	}
	created := w.get("ours", "GET", "events?limit=1000", "")["events"].([]any)[n/2].(map[string]any)["created"].(string)
	var since []string
	w.read(t, "?from="+created, "start", 1, &since)
	if since[0] != got[n/2] {
		t.Errorf("since %s: got %v, want %s", created, since, got[n/2])
	}
}

func jobs(v map[string]any) (ids []string) {
	for _, e := range v["events"].([]any) {
		ids = append(ids, e.(map[string]any)["job"].(string))
	}
	return ids
}

// read opens the stream after a cursor, reads some events, and breaks off.
func (w *world) read(t *testing.T, query, after string, some int, got *[]string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", w.srv.URL+"/ringback/v1/stream"+query, nil)
	w.ok(err)
	req.Header.Set("X-Goog-Api-Key", "ours")
	req.Header.Set("Last-Event-ID", after)
	resp, err := http.DefaultClient.Do(req)
	w.ok(err)
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %v", resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	id := ""
	for some > 0 && lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			id = v
		}
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && id != "" {
			var e struct{ Job string }
			w.ok(json.Unmarshal([]byte(data), &e))
			*got = append(*got, e.Job)
			after, id = id, ""
			some--
		}
	}
	return after
}

// TestStreamHints: what changes is told without an id.
func TestStreamHints(t *testing.T) {
	w := newWorld(t)
	j := w.job("v1_j", "", nil)
	req, err := http.NewRequestWithContext(t.Context(), "GET", w.srv.URL+"/ringback/v1/stream", nil)
	w.ok(err)
	req.Header.Set("X-Goog-Api-Key", "ours")
	resp, err := http.DefaultClient.Do(req)
	w.ok(err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && lines.Text() != "" { // The stream listens once its first line is there.
	}
	w.hints.Publish(bus.Hint{Project: "theirs", Kind: bus.Job, ID: j.ID})
	w.hints.Publish(bus.Hint{Project: "ours", Kind: bus.Job, ID: "gone"})
	w.hints.Publish(bus.Hint{Project: "ours", Kind: bus.Job, ID: j.ID})
	var text []string
	for lines.Scan() && len(text) < 2 {
		if lines.Text() != "" {
			text = append(text, lines.Text())
		}
	}
	if text[0] != "event: job" || !strings.HasPrefix(text[1], `data: {"id":"v1_j","kind":"interaction","state":"pending"`) {
		t.Errorf("got %q", text)
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("events", "after=ZXZlbnRzIDE&types=ping&limit=3")
	f.Add("deliveries", "state=failed&from=2026-10-01T12:00:00Z&before=x")
	f.Add("jobs", "before=am9icyAx")
	w := newWorld(f)
	f.Fuzz(func(t *testing.T, path, query string) {
		if strings.ContainsAny(path, " ?#%\x7f") || strings.HasPrefix(path, "stream") || strings.ContainsFunc(path+query, func(r rune) bool { return r < ' ' }) {
			return
		}
		r, err := http.NewRequest("GET", "http://h/ringback/v1/"+path, nil)
		if err != nil {
			return
		}
		r.URL.RawQuery = query
		r.Header.Set("X-Goog-Api-Key", "ours")
		rec := httptest.NewRecorder()
		w.h.ServeHTTP(rec, r)
		if rec.Code >= 500 {
			t.Errorf("%s?%s: %d %s", path, query, rec.Code, rec.Body)
		}
	})
}
