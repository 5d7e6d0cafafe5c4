package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ringback.dev"
	"ringback.dev/internal/api"
	"ringback.dev/internal/api/manage"
	"ringback.dev/internal/attach"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/emulator"
	blobdir "ringback.dev/internal/blob/dir"
	"ringback.dev/internal/bus"
	"ringback.dev/internal/egress"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
	"ringback.dev/internal/store/sqlite"
	"ringback.dev/internal/work"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is the time on the servers' clocks when a test begins.
func start() time.Time { return time.Date(2026, 1, 22, 12, 0, 0, 123456000, time.UTC) }

// scenario scripts the models of the tests; the names in newServer's routes
// decide which models there are.
const scenario = `rules:
- {match: {model: fail}, error: {kind: internal, message: the model is not reachable}}
- {match: {model: refuse}, error: {kind: invalid_request, message: the context is too long}}
- {match: {model: busy}, rate_limit: {retry_after: 6500ms, times: 1000000}}
- {match: {model: broke}, error: {kind: out_of_budget, message: the account is empty}}
- {match: {model: slow}, delay: 24h, text: too late}
- {match: {prompt: say hello}, text: Hello there}
- {match: {prompt: think about it}, thought: one two, text: Three four}
- {match: {prompt: not the schema}, text: '{"a":"b"}'}
- {match: {prompt: weather}, function_call: {name: get_weather, args: {city: Paris}}}
- {match: {prompt: cut it}, text: Half an ans, finish_reason: MAX_TOKENS}
- {match: {prompt: something bad}, text: Nothing, finish_reason: SAFETY}
- {match: {prompt: somebody}, filtered: {reasons: [it shows a real person]}}
- {match: {prompt: one of them}, filtered: {count: 1, reasons: [it is too loud]}}
- {match: {prompt: take your time}, delay: 24h}
`

// server is the whole surface over a real store and a real runner; only the
// sending of callbacks is left out.
type server struct {
	t       testing.TB
	url     string
	store   store.Store
	secrets *keyring.Keyring
	clock   *clock
	log     *logBuffer
	// told has an element when a delivery was stored since it was last received from.
	told chan struct{}
	// asked has an element when the slow model was asked.
	asked chan struct{}
	// key is of project, foreign of another one.
	key, foreign string
	project      ringback.ID
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// handover takes no delivery, so that each stays in the store, and tells when
// there is one.
type handover chan struct{}

func (handover) Take(string, *ringback.Endpoint) bool { return false }
func (handover) Give(string)                          {}
func (handover) Hand(store.ClaimedDelivery)           {}
func (h handover) Wake() {
	select {
	case h <- struct{}{}:
	default:
	}
}

// telling is a back-end that tells when it is asked.
type telling struct {
	backend.Backend
	asked chan<- struct{}
}

func (b telling) Generate(ctx context.Context, req *backend.Request) (*genai.GenerateContentResponse, error) {
	b.asked <- struct{}{}
	return b.Backend.Generate(ctx, req)
}

func newServer(t testing.TB, change ...func(*api.Config)) *server {
	t.Helper()
	dir := t.TempDir()
	st, err := sqlite.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	s := &server{t: t, store: st, clock: &clock{now: start()}, log: &logBuffer{}, told: make(chan struct{}, 1), asked: make(chan struct{}, 100)}
	if s.secrets, err = keyring.Open(dir); err != nil {
		t.Fatal(err)
	}
	s.project, s.key = s.newProject("ours")
	_, s.foreign = s.newProject("theirs")

	script, err := emulator.ReadScenario(strings.NewReader(scenario))
	if err != nil {
		t.Fatal(err)
	}
	var routes []backend.Route
	for _, match := range []string{"gemini-*", "fail", "refuse", "busy", "broke", "org/model"} {
		routes = append(routes, backend.Route{Match: match, Backend: emulator.New(script)})
	}
	routes = append(routes, backend.Route{Match: "slow", Backend: telling{emulator.New(script), s.asked}})
	router, err := backend.NewRouter(routes, nil)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(s.log, nil))
	hints := &bus.Bus{}
	emitter := emit.New(st, handover(s.told), hints, "test", time.Minute, "https://ringback.example")
	blobs, err := blobdir.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	files := attach.New(st, blobs, 1<<20)
	router.Attach = func(ctx context.Context, project ringback.ID, body *genai.GenerateContentRequest) (*genai.GenerateContentRequest, func(), error) {
		return files.To(ctx, project, s.clock.Now(), body)
	}
	runner := work.New(work.Config{Store: st, Emit: emitter, Backend: router, Blobs: blobs, Node: "test", Hints: hints, Log: log, Now: s.clock.Now})
	s.run(runner)
	c := api.Config{Store: st, Blobs: blobs, Runner: runner, Pinger: emitter, Backend: router, Secrets: s.secrets, Log: log, Now: s.clock.Now,
		CheckURI: func(uri string) error { return egress.CheckURI(uri, egress.Options{}) }, Manage: manage.Config{Bus: hints}}
	for _, f := range change {
		f(&c)
	}
	h := httptest.NewServer(api.New(c))
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

// run runs the runner until the test ends, which cuts off what is under way.
func (s *server) run(r *work.Runner) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("run: %v", err)
		}
		r.Stop(ctx)
	})
}

func (s *server) newProject(name string) (ringback.ID, string) {
	s.t.Helper()
	key := keyring.NewAPIKey()
	p := ringback.Project{ID: ringback.NewID("prj", start()), Name: name, Created: start()}
	k := ringback.APIKey{ID: ringback.NewID("key", start()), Project: p.ID, Name: name, Hash: keyring.HashKey(key), Created: start()}
	if err := s.store.CreateProject(s.t.Context(), p, &k, store.By{Actor: store.Server, At: k.Created}); err != nil {
		s.t.Fatal(err)
	}
	return p.ID, key
}

// answer is what a request was answered.
type answer struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   string
}

// as makes a request with a key, none if it is empty.
func (s *server) as(key, method, path, body string) answer {
	s.t.Helper()
	header := http.Header{}
	if key != "" {
		header.Set("X-Goog-Api-Key", key)
	}
	return s.send(method, path, header, strings.NewReader(body))
}

// do makes a request as the project.
func (s *server) do(method, path, body string) answer {
	s.t.Helper()
	return s.as(s.key, method, path, body)
}

func (s *server) send(method, path string, header http.Header, body io.Reader) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header = header
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.Header.Get("X-Request-Id") == "" {
		s.t.Errorf("%s %s: the answer has no X-Request-Id", method, path)
	}
	return answer{t: s.t, what: method + " " + path, status: resp.StatusCode, header: resp.Header, body: string(b)}
}

// ok makes sure of what every SDK needs of a success: status 200 exactly, the
// content type, and compact JSON without a newline at its end.
func (a answer) ok() answer {
	a.t.Helper()
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(a.body)); err != nil || compact.String() != a.body {
		a.t.Errorf("%s: the body is no compact JSON (%v): %s", a.what, err, a.body)
	}
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
		a.t.Fatalf("%s: got %d %s %s", a.what, a.status, a.header.Get("Content-Type"), a.body)
	}
	return a
}

// field returns a member of a JSON object as text.
func (a answer) field(name string) string {
	a.t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		a.t.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
	s, _ := m[name].(string)
	return s
}

// refused makes sure of an error of the new surface: the string code and a part
// of the message.
func (a answer) refused(status int, code, hint string) {
	a.t.Helper()
	var e struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		a.t.Fatalf("%s: not an error of the new surface: %v: %s", a.what, err, a.body)
	}
	a.judge(status, code, e.Error.Code, e.Error.Message, hint)
}

// refusedClassic does the same for google.rpc.Status, whose code is a number.
func (a answer) refusedClassic(status int, name, hint string) {
	a.t.Helper()
	var e struct {
		Error struct {
			Code            int
			Message, Status string
		}
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		a.t.Fatalf("%s: not an error of the classic surface: %v: %s", a.what, err, a.body)
	}
	if e.Error.Code != a.status {
		a.t.Errorf("%s: code %d in the body, HTTP status %d", a.what, e.Error.Code, a.status)
	}
	a.judge(status, name, e.Error.Status, e.Error.Message, hint)
}

func (a answer) judge(status int, code, gotCode, message, hint string) {
	a.t.Helper()
	if a.status != status || gotCode != code || !strings.Contains(message, hint) || message == "" {
		a.t.Errorf("%s: got %d %s, want %d, code %s and a word of %q", a.what, a.status, a.body, status, code, hint)
	}
	if a.header.Get("Content-Type") != "application/json" {
		a.t.Errorf("%s: the error's content type is %q", a.what, a.header.Get("Content-Type"))
	}
}

// What differs from run to run, and what stands for it in golden files.
var changing = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`v1_[0-9a-z]{26}`), "v1_ID"},
	{regexp.MustCompile(`http://127\.0\.0\.1:\d+/v1beta/files/[0-9a-z]{26}`), "BASE/v1beta/files/FILE"},
	{regexp.MustCompile(`"id":"[0-9a-z]{36}"`), `"id":"WEBHOOK"`},
	{regexp.MustCompile(`whsec_[0-9A-Za-z+/]{43}=`), "whsec_SECRET="},
	{regexp.MustCompile(`whsec_\.\.\.[0-9A-Za-z+/]{3}=`), "whsec_...END="},
	{regexp.MustCompile(`"responseId":"[0-9a-f]{8}"`), `"responseId":"DIGEST"`},
}

// golden compares the body with testdata/name.json, byte for byte but for ids
// and secrets.
func (a answer) golden(name string) answer {
	a.t.Helper()
	a.ok()
	got := a.body
	for _, c := range changing {
		got = c.pattern.ReplaceAllString(got, c.name)
	}
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(file, []byte(got+"\n"), 0o666); err != nil {
			a.t.Fatal(err)
		}
		return a
	}
	want, err := os.ReadFile(file)
	if err != nil {
		a.t.Fatal(err)
	}
	if d := cmp.Diff(strings.TrimSuffix(string(want), "\n"), got); d != "" {
		a.t.Errorf("%s differs from %s (-want +got):\n%s", a.what, file, d)
	}
	return a
}

// subscribe registers a webhook for an event and returns its id.
func (s *server) subscribe(events ...string) string {
	s.t.Helper()
	list, err := json.Marshal(events)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do("POST", "/v1/webhooks", `{"uri":"https://example.com/cb","subscribed_events":`+string(list)+`}`).ok().field("id")
}

// waitTold waits until a delivery is stored.
func (s *server) waitTold() {
	s.t.Helper()
	s.wait(s.told, "a delivery is stored")
}

func (s *server) wait(fact <-chan struct{}, what string) {
	s.t.Helper()
	select {
	case <-fact:
	case <-time.After(20 * time.Second):
		s.t.Fatalf("it took more than 20 s until %s", what)
	}
}

// events lists the types of the events of a job that are stored.
func (s *server) events(job string) []ringback.EventType {
	s.t.Helper()
	list, err := s.store.JobEvents(s.t.Context(), s.project, ringback.ID(job))
	if err != nil {
		s.t.Fatal(err)
	}
	var types []ringback.EventType
	for _, e := range list {
		types = append(types, e.Type)
	}
	return types
}
