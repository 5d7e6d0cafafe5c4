package edge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringback.dev/internal/pgtest"
	"ringback.dev/webhook"
)

const succeeded = `{"type":"batch.succeeded","version":"v1","timestamp":"2026-10-01T12:05:00Z","data":{"id":"batches/abc123","output_file_uri":"https://host/v1beta/files/out1:download?alt=media","file_name":"files/out1"},"user_metadata":{"team":"a<b","n":3}}`

// request is what a server of a test saw.
type request struct {
	method, path string
	header       http.Header
	body         string
}

// target is a server that notes requests and answers as told.
type target struct {
	*httptest.Server
	seen   chan request
	answer atomic.Pointer[func(http.ResponseWriter, *http.Request)]
}

func newTarget(t *testing.T) *target {
	x := &target{seen: make(chan request, 10_000)}
	x.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		x.seen <- request{r.Method, r.URL.RequestURI(), r.Header, string(body)}
		if f := x.answer.Load(); f != nil {
			(*f)(w, r)
		}
	}))
	t.Cleanup(x.Close)
	return x
}

func (x *target) say(f func(http.ResponseWriter, *http.Request)) { x.answer.Store(&f) }

func TestForward(t *testing.T) {
	next := newTarget(t)
	const own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	key := webhook.NewSigningKey()
	w := start(t, routed(`
http:
  url: `+next.URL+`/hook?a=b
  secret_env: [NEXT, NEXT_KEY]
  headers: {X-Team: "{{ metadata.team }} of {{ source }}"}
  headers_env: {Authorization: NEXT_AUTH}`), "NEXT", own, "NEXT_KEY", key.Reveal(), "NEXT_AUTH", "Bearer hush")
	w.event("msg_1", succeeded)
	got := <-next.seen
	if got.path != "/hook?a=b" || got.body != succeeded || got.header.Get("X-Team") != "a<b of s" || got.header.Get("Authorization") != "Bearer hush" || got.header.Get("Webhook-Id") != "msg_1" {
		t.Errorf("got %+v", got)
	}
	s, err := webhook.ParseSecret(own)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*webhook.Verifier{{Secrets: []webhook.Secret{s}}, {PublicKeys: []webhook.PublicKey{key.Public()}}} {
		if _, err := v.Verify(got.header, []byte(got.body)); err != nil {
			t.Error(err)
		}
	}
	w.done("r/a", "msg_1")

	// It is tried again under the same id, until the next hop takes it.
	n := 0
	next.say(func(w http.ResponseWriter, _ *http.Request) {
		if n++; n < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	w.event("msg_2", succeeded)
	w.done("r/a", "msg_2")
	for range 3 {
		if got := <-next.seen; got.header.Get("Webhook-Id") != "msg_2" {
			t.Errorf("got %+v", got)
		}
	}
	// 410 says to stop; a redirect is not followed.
	next.say(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusGone)
		fmt.Fprint(w, "no\nmore")
	})
	w.event("msg_3", succeeded)
	if why := w.dead("r/a", "msg_3"); why != "refused: it answered 410: no more" {
		t.Error(why)
	}
	next.say(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	w.event("msg_4", succeeded)
	if why := w.dead("r/a", "msg_4"); why != "failed: it answered 302; redirects are not followed" {
		t.Error(why)
	}
	if log := w.log.String(); strings.Contains(log, "hush") || strings.Contains(log, "MfKQ9r8") || strings.Contains(log, "/hook") {
		t.Errorf("the log tells too much:\n%s", log)
	}
}

func TestForwardKeepsToTheRules(t *testing.T) {
	next := newTarget(t)
	w := startAll(t, strings.Replace(base, "allow_hosts: [127.0.0.1, localhost]", "allow_hosts: [localhost.example]", 1)+routed(`
http: {url: "http://localhost.example:`+port(next.URL)+`/", unsigned: true}
retry: {window: 1ms}
timeout: 5s`))
	w.event("msg_1", succeeded) // A name that can't be resolved, most likely; never the server.
	w.dead("r/a", "msg_1")
	f := parse([]byte(base + routed(`http: {url: "http://10.0.0.1/", unsigned: true}`)))
	f.ready()
	if text := f.problems.Error(); !strings.Contains(text, "10.0.0.1 is not a public address") || !strings.Contains(text, "egress.allow_hosts") || strings.Contains(text, "--") {
		t.Error(text)
	}
}

func port(url string) string { return url[strings.LastIndexByte(url, ':')+1:] }

func TestExec(t *testing.T) {
	dir := t.TempDir()
	w := start(t, routed(`
exec:
  command: [/bin/sh, -c, 'cat > "$0.$1.in"; env > "$0.$1.env"; echo said; exit "$3"', "`+dir+`/out", "{{ id }}", "{{ data.id }}", "{{ data.code ?? 0 }}"]
  dir: /
  env: {TEAM: "{{ metadata?.team ?? '' }}"}
  pass_env: PASS_ME
retry: {schedule: [1ms], window: 1ms}`), "PASS_ME", "along", "KEEP_ME", "secret")
	w.event("msg_1", succeeded)
	w.done("r/a", "msg_1")
	if in := readFile(t, dir+"/out.msg_1.in"); in != succeeded {
		t.Errorf("got %s", in)
	}
	env := readFile(t, dir+"/out.msg_1.env")
	for _, want := range []string{"TEAM=a<b", "PASS_ME=along", "RINGBACK_EVENT_ID=msg_1", "RINGBACK_EVENT_TYPE=batch.succeeded", "RINGBACK_EVENT_SOURCE=s", "RINGBACK_EVENT_ACTION=r/a", "RINGBACK_EVENT_ATTEMPT=1", "PATH="} {
		if !strings.Contains(env, want) {
			t.Errorf("no %s in\n%s", want, env)
		}
	}
	if strings.Contains(env, "KEEP_ME") || strings.Contains(env, "EDGE_TEST_SECRET") {
		t.Errorf("the command sees what is not its business:\n%s", env)
	}
	w.event("msg_2", `{"type":"x","data":{"id":"1","code":3}}`)
	if why := w.dead("r/a", "msg_2"); why != "failed: exit code 3: said" {
		t.Error(why)
	}
	if e := w.ended("r/a", "msg_2"); e.Attempts != 2 {
		t.Errorf("%d attempts", e.Attempts)
	}
	w.event("msg_3", `{"type":"x","data":{"id":"1","code":100}}`)
	if why := w.dead("r/a", "msg_3"); why != "refused: exit code 100: said" {
		t.Error(why)
	}
	w.event("msg_4", `{"type":"x","data":{}}`)
	if why := w.dead("r/a", "msg_4"); !strings.HasPrefix(why, "misfit: command[5]: {{ data.id }}: it is null") {
		t.Error(why)
	}
}

// TestExecInItsFolder: a program that is named by its place is looked for where it is
// run.
func TestExecInItsFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/hook.sh", []byte("#!/bin/sh\npwd\nexit 100\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	w := start(t, routed(`
exec: {command: [./hook.sh], dir: "`+dir+`"}`))
	w.event("msg_1", succeeded)
	if why := w.dead("r/a", "msg_1"); why != "refused: exit code 100: "+dir {
		t.Error(why)
	}
}

// TestExecIsKilledWithItsChildren: what a command has started ends with it when its
// time is over.
func TestExecIsKilledWithItsChildren(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// The child is heard of by a connection that it holds, which ends with it.
	script := `exec 3<>/dev/tcp/127.0.0.1/` + port(l.Addr().String()) + `; sleep 1000 & wait`
	w := start(t, routed(`
exec: {command: [/bin/bash, -c, "`+script+`"]}
timeout: 1s
retry: {window: 1ms}`))
	w.event("msg_1", succeeded)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if why := w.dead("r/a", "msg_1"); why != "timed_out: it did not end in time and was killed" {
		t.Error(why)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the child lives on: %v", err)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSQL(t *testing.T) {
	pg := pgtest.Start(t)
	_, schema, _ := strings.Cut(pg.Schema(t), "search_path=")
	file := filepath.Join(t.TempDir(), "with space?.db")
	for name, x := range map[string]struct{ address, insert string }{
		"sqlite":   {"sqlite:" + file, "INSERT INTO got (id, n, f, b, meta, missing) VALUES (?, ?, ?, ?, ?, ?)"},
		"postgres": {"postgres:///postgres?host=" + pg.Dir + "&user=ringback&search_path=" + schema, "INSERT INTO got (id, n, f, b, meta, missing) VALUES ($1, $2, $3, $4, $5, $6)"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := openDatabase("d", x.address)
			if err != nil {
				t.Fatal(err)
			}
			defer d.close()
			if _, err := d.db.Exec(`CREATE TABLE got (id TEXT, n BIGINT, f DOUBLE PRECISION, b BOOLEAN, meta TEXT, missing TEXT)`); err != nil {
				t.Fatal(err)
			}
			if _, err := d.db.Exec(`CREATE TABLE counts (total BIGINT)`); err != nil {
				t.Fatal(err)
			}
			if _, err := d.db.Exec(`INSERT INTO counts VALUES (0)`); err != nil {
				t.Fatal(err)
			}
			w := start(t, `
databases: {main: {url_env: DATABASE}}
`+routed(`
sql:
  database: main
  statements:
    - sql: `+x.insert+`
      args: [data.id, data.n, data.f, data.n > 2, metadata, data.nothing]
    - sql: UPDATE counts SET total = total + 1
    - sql: `+strings.Replace(strings.Replace("INSERT INTO must_exist (id) SELECT 1 WHERE FALSE", "must_exist", "counts", 1), "(id)", "(total)", 1)+`
retry: {schedule: [50ms], window: 10s}`), "DATABASE", x.address)
			body := `{"type":"x","data":{"id":"1","n":9007199254740993,"f":1.5},"user_metadata":{"a":[1,"<"]}}`
			w.event("msg_1", body)
			w.done("r/a", "msg_1")
			want := []string{"1|9007199254740993|1.5|true|{\"a\":[1,\"<\"]}|"}
			query := `SELECT id || '|' || n || '|' || f || '|' || (CASE WHEN b THEN 'true' ELSE 'false' END) || '|' || meta || '|' || coalesce(missing, '') FROM got`
			if diff := cmp.Diff(want, rows(t, d.db, query)); diff != "" {
				t.Error(diff)
			}
			// The action runs again, as after a crash before it was recorded: nothing is done twice.
			a := w.doors.Load().actions["r/a"]
			event := &Event{Source: "s", ID: "msg_1", Type: "x", Body: []byte(body), Received: time.Now()}
			if r := a.do(t.Context(), &task{Event: event, action: "r/a", number: 2}); r.reason != doneAgo {
				t.Errorf("got %+v", r)
			}
			// Another action about the same event is another effect.
			if r := a.do(t.Context(), &task{Event: event, action: "r/b", number: 1}); r.reason != done {
				t.Errorf("got %+v", r)
			}
			if got := rows(t, d.db, `SELECT total FROM counts`); got[0] != "2" {
				t.Errorf("got %v", got)
			}
			// A statement that fails leaves nothing of the others, and no claim: once the
			// table is there again the effect comes.
			if _, err := d.db.Exec(`ALTER TABLE counts RENAME TO gone`); err != nil {
				t.Fatal(err)
			}
			w.event("msg_2", `{"type":"x","data":{"id":"2","n":1,"f":0.5}}`)
			w.log.until(func(line string) bool {
				return strings.Contains(line, "event=s/msg_2") && strings.Contains(line, "statements[1]")
			})
			if got := rows(t, d.db, `SELECT count(*) FROM got WHERE id = '2'`); got[0] != "0" {
				t.Errorf("half of it is there: %v", got)
			}
			if _, err := d.db.Exec(`ALTER TABLE gone RENAME TO counts`); err != nil {
				t.Fatal(err)
			}
			w.done("r/a", "msg_2")
			if got := rows(t, d.db, `SELECT total FROM counts`); got[0] != "3" {
				t.Errorf("got %v", got)
			}
		})
	}
	t.Run("down", func(t *testing.T) {
		w := start(t, "databases: {main: {url_env: DATABASE}}\n"+routed(`
sql: {database: main, statements: [{sql: SELECT 1}]}
retry: {window: 1ms}`), "DATABASE", "postgres://user:hush@127.0.0.1:1/db")
		w.event("msg_1", succeeded)
		if why := w.dead("r/a", "msg_1"); why != "failed: the database main can't be reached" {
			t.Error(why)
		}
		if strings.Contains(w.log.String(), "hush") {
			t.Error("the log holds the password")
		}
	})
}

// TestSQLAcrossCrashes: the database dies again and again, also while it commits;
// each effect is there once.
func TestSQLAcrossCrashes(t *testing.T) {
	pg := pgtest.Start(t)
	address := "postgres:///postgres?host=" + pg.Dir + "&user=ringback"
	d, err := openDatabase("d", address)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if _, err := d.db.Exec(`CREATE TABLE got (id TEXT)`); err != nil {
		t.Fatal(err)
	}
	w := start(t, "databases: {main: {url_env: DATABASE}}\n"+routed(`
sql: {database: main, statements: [{sql: "INSERT INTO got VALUES ($1)", args: [id]}]}
retry: {schedule: [20ms], window: 20s}`), "DATABASE", address)
	const crashes, between = 5, 20
	for n := range crashes {
		for i := range between {
			w.event(fmt.Sprintf("msg_%d_%d", n, i), succeeded)
		}
		if n%2 == 0 {
			err = pg.Crash()
		} else {
			err = pg.Kill()
		}
		if err == nil {
			err = pg.Restart()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range crashes {
		for i := range between {
			w.done("r/a", fmt.Sprintf("msg_%d_%d", n, i))
		}
	}
	if got := rows(t, d.db, `SELECT count(*) || ' ' || count(DISTINCT id) FROM got`); got[0] != "100 100" {
		t.Errorf("rows and events: %v", got)
	}
}

func TestJob(t *testing.T) {
	next := newTarget(t)
	n := 0
	next.say(func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		fmt.Fprint(w, `{"id":"v1_next","status":"in_progress"}`)
	})
	w := start(t, `
servers: {here: {url: "`+next.URL+`/base/", api_key_env: KEY}}
`+routed(`
job:
  server: here
  kind: interaction
  model: "{{ data.model ?? 'gemini-x' }}"
  body:
    input: 'About {{ data.id }}: "{{ metadata.team }}"'
    temperature: 1.50
    raw: "{{ data }}"
    quiet: false
    date: 2026-01-01
    "{{ metadata.team }}": [1, null, "{{ metadata.n }}"]`), "KEY", "rbk_hush")
	w.event("msg_1", succeeded)
	first, second := <-next.seen, <-next.seen
	w.done("r/a", "msg_1")
	if first.path != "/base/v1beta/interactions" || first.header.Get("X-Goog-Api-Key") != "rbk_hush" {
		t.Errorf("got %+v", first)
	}
	key := first.header.Get("Idempotency-Key")
	if key == "" || key != second.header.Get("Idempotency-Key") || first.body != second.body {
		t.Errorf("the attempts differ:\n%+v\n%+v", first, second)
	}
	want := `{"input":"About batches/abc123: \"a<b\"","temperature":1.5,"raw":{"file_name":"files/out1","id":"batches/abc123","output_file_uri":"https://host/v1beta/files/out1:download?alt=media"},"quiet":false,"date":"2026-01-01","a<b":[1,null,3],"background":true,"model":"gemini-x"}`
	if first.body != want {
		t.Errorf("got  %s\nwant %s", first.body, want)
	}
	w.log.waitFor("result=v1_next")
	w.event("msg_2", succeeded)
	if other := <-next.seen; other.header.Get("Idempotency-Key") == key {
		t.Error("two events have one key")
	}
	w.done("r/a", "msg_2")
	// What the server does not understand it won't understand later.
	next.say(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(400)
		fmt.Fprint(w, `{"error":{"message":"no"}}`)
	})
	w.event("msg_3", succeeded)
	if why := w.dead("r/a", "msg_3"); why != `refused: it answered 400: {"error":{"message":"no"}}` {
		t.Error(why)
	}
	w.event("msg_4", `{"type":"x","data":{"id":"1","model":"../../evil"},"user_metadata":{"team":"","n":0}}`)
	w.dead("r/a", "msg_4")
}

func TestJobKinds(t *testing.T) {
	next := newTarget(t)
	w := start(t, `
servers: {here: {url: "`+next.URL+`"}}
routes:
  - name: r
    actions:
      - {name: b, job: {server: here, kind: batch, model: m, body: {batch: {displayName: "{{ id }}"}}}}
      - {name: e, job: {server: here, kind: embeddings, model: models/m, body: {batch: {}}}}
      - {name: v, job: {server: here, kind: video, model: "{{ type }}", body: {instances: [{prompt: x}]}}}
`)
	w.event("msg_1", `{"type":"veo-3.1","data":{}}`)
	got := map[string]string{}
	for range 3 {
		r := <-next.seen
		got[r.path] = r.body
	}
	want := map[string]string{
		"/v1beta/models/m:batchGenerateContent":     `{"batch":{"displayName":"msg_1"}}`,
		"/v1beta/models/m:asyncBatchEmbedContent":   `{"batch":{"displayName":"` + idempotencyKey(&task{Event: &Event{Source: "s", ID: "msg_1"}, action: "r/e"}) + `"}}`,
		"/v1beta/models/veo-3.1:predictLongRunning": `{"instances":[{"prompt":"x"}]}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	w.event("msg_2", `{"type":"a/../../b","data":{}}`)
	if why := w.dead("r/v", "msg_2"); why != `misfit: model: "a/../../b" is not the name of a model` {
		t.Error(why)
	}
}

// TestBatchOnce: a batch whose answer was lost is found by its name and not made
// again, at a server that knows no idempotency keys, such as Google's.
func TestBatchOnce(t *testing.T) {
	const other = `{"name":"batches/other","metadata":{"displayName":"other","createTime":"2100-01-01T00:00:00Z"}}`
	for name, c := range map[string]struct {
		made    bool   // The attempt whose answer is lost makes the batch.
		before  string // What the list has before it.
		list    int    // What asking for the list is answered first, if not 200.
		posts   int32
		outcome string
	}{
		"made":                  {made: true, posts: 1, outcome: "reason=done_before"},
		"made, pages before it": {made: true, before: other, posts: 1, outcome: "reason=done_before"},
		"not made":              {posts: 2, outcome: "result=batches/2"},
		"the list is down":      {made: true, list: http.StatusServiceUnavailable, posts: 1, outcome: "reason=done_before"},
		"a server without list": {made: true, list: http.StatusNotFound, posts: 2, outcome: "result=batches/2"},
	} {
		t.Run(name, func(t *testing.T) {
			var posts, lists atomic.Int32
			var pages atomic.Value
			pages.Store([]string{other, `{"name":"batches/old","metadata":{"displayName":"old","createTime":"2020-01-01T00:00:00Z"}}`})
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				all := pages.Load().([]string)
				if r.Method == http.MethodGet {
					if lists.Add(1) == 1 && c.list != 0 {
						w.WriteHeader(c.list)
						return
					}
					n, _ := strconv.Atoi(r.URL.Query().Get("pageToken")) // Empty is 0.
					if n >= len(all) {
						t.Error("it looks for what is older than the event")
						return
					}
					fmt.Fprintf(w, `{"operations":[%s],"nextPageToken":"%d"}`, all[n], n+1)
					return
				}
				var body struct {
					Batch struct{ DisplayName, Model string }
				}
				if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Batch.DisplayName == "" || body.Batch.Model != "x" {
					t.Errorf("got %+v, %v", body, err)
				}
				n := posts.Add(1)
				if n > 1 || c.made {
					made := fmt.Sprintf(`{"name":"batches/%d","metadata":{"displayName":%q,"createTime":%q}}`, n, body.Batch.DisplayName, time.Now().UTC().Format(time.RFC3339Nano))
					if c.before != "" {
						all = append([]string{c.before, made}, all...)
					} else {
						all = append([]string{made}, all...)
					}
					pages.Store(all)
				}
				if n == 1 {
					panic(http.ErrAbortHandler) // The answer is lost.
				}
				fmt.Fprintf(w, `{"name":"batches/%d"}`, n)
			}))
			defer srv.Close()
			w := start(t, "servers: {google: {url: \""+srv.URL+"\"}}\n"+routed("job: {server: google, kind: batch, model: m, body: {batch: {model: x}}}"))
			w.event("msg_1", succeeded)
			w.log.waitFor(c.outcome)
			w.done("r/a", "msg_1")
			if n := posts.Load(); n != c.posts {
				t.Errorf("submitted %d times", n)
			}
		})
	}
}

func TestNotifyChats(t *testing.T) {
	next := newTarget(t)
	w := start(t, `
routes:
  - name: r
    actions:
      - {name: slack, notify: {slack_env: CHAT, text: "*{{ type }}* {{ metadata.team }} {{ data.none }}"}}
      - {name: discord, notify: {discord_env: CHAT}}
      - {name: teams, notify: {teams_env: CHAT, text: "{{ data.id }}"}}
`, "CHAT", next.URL+"/services/hush")
	w.event("msg_1", succeeded)
	got := map[string]bool{}
	for range 3 {
		got[(<-next.seen).body] = true
	}
	for _, want := range []string{
		`{"text":"*batch.succeeded* a&lt;b "}`,
		`{"allowed_mentions":{"parse":[]},"content":"batch.succeeded · batches/abc123 · https://host/v1beta/files/out1:download?alt=media"}`,
		`{"attachments":[{"content":{"$schema":"http://adaptivecards.io/schemas/adaptive-card.json","body":[{"text":"batches/abc123","type":"TextBlock","wrap":true}],"type":"AdaptiveCard","version":"1.4"},"contentType":"application/vnd.microsoft.card.adaptive","contentUrl":null}],"type":"message"}`,
	} {
		if !got[want] {
			t.Errorf("no %s in %v", want, got)
		}
	}
	// One that is down is tried again; the others had their message and get no other.
	next.say(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) })
	w.event("msg_2", `{"type":"`+strings.Repeat("x", 5000)+`","data":{}}`)
	if why := w.dead("r/discord", "msg_2"); why != "failed: it answered 404" {
		t.Error(why)
	}
	for range len(next.seen) {
		var m struct{ Content, Text string }
		if err := json.Unmarshal([]byte((<-next.seen).body), &m); err != nil || len([]rune(m.Content)) > 2000 || len([]rune(m.Text)) > 4000 {
			t.Errorf("got %d, %d characters, %v", len(m.Content), len(m.Text), err)
		}
	}
	if strings.Contains(w.log.String(), "hush") {
		t.Error("the log holds the address")
	}
}

// smtpServer is a mail server that takes one message at a time and answers RCPT as
// told.
type smtpServer struct {
	net.Listener
	tls  *tls.Config // With it there is STARTTLS.
	rcpt atomic.Pointer[string]

	mu   sync.Mutex
	got  []string // The messages.
	auth []string
	news chan struct{}
}

func newSMTP(t *testing.T, secure *tls.Config) *smtpServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &smtpServer{Listener: l, tls: secure, news: make(chan struct{}, 100)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return s
}

func (s *smtpServer) serve(raw net.Conn) {
	defer raw.Close()
	c := textproto.NewConn(raw)
	say := func(text string) { _ = c.PrintfLine("%s", text) }
	say("220 test")
	secured := false
	for {
		line, err := c.ReadLine()
		if err != nil {
			return
		}
		switch verb, rest, _ := strings.Cut(line, " "); strings.ToUpper(verb) {
		case "EHLO":
			if s.tls != nil && !secured {
				say("250-test")
				say("250 STARTTLS")
			} else {
				say("250-test")
				say("250 AUTH PLAIN")
			}
		case "STARTTLS":
			say("220 go on")
			secure := tls.Server(raw, s.tls)
			if secure.Handshake() != nil {
				return
			}
			c, secured = textproto.NewConn(secure), true
		case "AUTH":
			s.mu.Lock()
			s.auth = append(s.auth, rest)
			s.mu.Unlock()
			say("235 good")
		case "RCPT":
			if no := s.rcpt.Load(); no != nil {
				say(*no)
			} else {
				say("250 good")
			}
		case "DATA":
			say("354 go on")
			body, err := c.ReadDotBytes()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.got = append(s.got, string(body))
			s.mu.Unlock()
			say("250 taken")
			s.news <- struct{}{}
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 good")
		}
	}
}

// TestMailLines: servers refuse lines of more than 998 bytes (RFC 5322 §2.1.1).
func TestMailLines(t *testing.T) {
	from := &mail.Address{Address: "edge@example.com"}
	l := &letter{mailer: &mailer{from: from}}
	for i := range 60 {
		l.to = append(l.to, &mail.Address{Name: "Zoë", Address: fmt.Sprintf("ops%d@example.com", i)})
	}
	subject := strings.Repeat("批量作业失败", 33)
	raw := l.compose(&task{Event: &Event{Source: "s", ID: "msg_1"}, action: "r/a"}, subject, "x", time.Now())
	for line := range strings.Lines(string(raw)) {
		if len(line) > 998 {
			t.Errorf("%d bytes: %.80s…", len(line), line)
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	to, err := m.Header.AddressList("To")
	if err != nil || len(to) != 60 {
		t.Errorf("%d receivers, %v", len(to), err)
	}
	if got, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject")); err != nil || got != subject {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestNotifyMail(t *testing.T) {
	// httptest has a certificate for 127.0.0.1, and an authority for it.
	lender := httptest.NewTLSServer(http.NotFoundHandler())
	defer lender.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeCertificate(t, ca, lender.Certificate().Raw)
	server := newSMTP(t, &tls.Config{Certificates: lender.TLS.Certificates})
	w := startAll(t, strings.Replace(base, "egress: {", "egress: {ca: "+ca+", ", 1)+`
mail:
  m: {server: "`+server.Addr().String()+`", user: me, password_env: PASSWORD, from: "Ring Bäck <edge@example.com>"}
`+routed(`
notify:
  mail: m
  to: [ops@example.com, "Zoë <zoe@example.com>"]
  subject: "{{ type }} für {{ metadata.team }}"
  text: "Line one\n.{{ data.id }}\n{{ data.none }}é"`), "PASSWORD", "hush")
	w.event("msg_1", strings.Replace(succeeded, "a<b", `a\r\nBcc: evil@example.com`, 1))
	<-server.news
	w.done("r/a", "msg_1")
	m, err := mail.ReadMessage(strings.NewReader(server.got[0]))
	if err != nil {
		t.Fatal(err)
	}
	if m.Header.Get("Bcc") != "" || len(m.Header) != 9 {
		t.Errorf("headers: %v", m.Header)
	}
	to, err := m.Header.AddressList("To")
	if err != nil || len(to) != 2 || to[1].Name != "Zoë" {
		t.Errorf("to: %v, %v", to, err)
	}
	text, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil || string(text) != "Line one\n.batches/abc123\né\n" {
		t.Errorf("text %q, %v", text, err)
	}
	if len(server.auth) != 1 {
		t.Errorf("it logged in %d times", len(server.auth))
	}
	id := m.Header.Get("Message-Id")
	a := w.doors.Load().actions["r/a"]
	if r := a.do(t.Context(), &task{Event: &Event{Source: "s", ID: "msg_1", Type: "x", Body: []byte(succeeded), Received: time.Now()}, action: "r/a", number: 2}); !r.reason.good() {
		t.Errorf("got %+v", r)
	}
	<-server.news
	if again, err := mail.ReadMessage(strings.NewReader(server.got[1])); err != nil || again.Header.Get("Message-Id") != id || id == "" {
		t.Errorf("the double has id %q, not %q, %v", again.Header.Get("Message-Id"), id, err)
	}
	for answer, want := range map[string]string{"550 no such mailbox": "refused: the mail server answered 550: no such mailbox", "450 later": "failed: the mail server answered 450: later",
		"535 no": "failed: the mail server answered 535: no"} {
		server.rcpt.Store(&answer)
		id := "msg_" + answer[:3]
		w.event(id, succeeded)
		if why := w.dead("r/a", id); why != want {
			t.Errorf("got %q, want %q", why, want)
		}
	}
	// A server without STARTTLS is not told the password.
	plain := newSMTP(t, nil)
	f := parse([]byte(base + "mail: {m: {server: \"" + plain.Addr().String() + "\", user: me, password_env: PASSWORD, from: a@example.com}}\n" + routed("notify: {mail: m, to: b@example.com}")))
	s := f.ready()
	if len(f.problems) > 0 {
		t.Fatal(f.problems)
	}
	defer s.close()
	r := s.actions["r/a"].do(t.Context(), &task{Event: &Event{Source: "s", ID: "1", Type: "x", Body: []byte(succeeded), Received: time.Now()}, action: "r/a"})
	if r.err != "the mail server has no STARTTLS" || len(plain.auth) > 0 {
		t.Errorf("got %+v, %v", r, plain.auth)
	}
}

func writeCertificate(t *testing.T, file string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pemOf("CERTIFICATE", der), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFetch(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("line\n", 50_000)
	store, elsewhere := newTarget(t), newTarget(t)
	elsewhere.say(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, content) })
	store.say(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "moved"):
			http.Redirect(w, r, elsewhere.URL+"/there", http.StatusFound)
		case strings.Contains(r.URL.Path, "gone"):
			w.WriteHeader(http.StatusGone)
		case strings.Contains(r.URL.Path, "cut"):
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
		case strings.Contains(r.URL.Path, "big"):
			w.(http.Flusher).Flush()
			fmt.Fprint(w, content+content)
		case strings.Contains(r.URL.Path, "private"):
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
		default:
			fmt.Fprint(w, content)
		}
	})
	w := start(t, `
servers: {here: {url: "`+store.URL+`", api_key_env: KEY}}
`+routed(`
fetch: {server: here, folder: "`+dir+`", file: "{{ source }}/{{ data.id }}.jsonl", max_bytes: 300KiB}
retry: {window: 1ms}`), "KEY", "rbk_hush")
	event := func(id, path string) { w.event(id, `{"type":"x","data":{"id":"`+id+`","output_file_uri":"`+path+`"}}`) }
	sum := sha256.Sum256([]byte(content))
	check := func(name string) {
		t.Helper()
		if got := readFile(t, filepath.Join(dir, name)); got != content {
			t.Errorf("%s has %d bytes", name, len(got))
		}
		if got := readFile(t, filepath.Join(dir, name+".sha256")); got != hex.EncodeToString(sum[:])+"  "+filepath.Base(name)+"\n" {
			t.Errorf("checksum %q", got)
		}
	}
	event("one", store.URL+"/v1beta/files/a:download?alt=media")
	w.done("r/a", "one")
	if got := <-store.seen; got.header.Get("X-Goog-Api-Key") != "rbk_hush" {
		t.Errorf("got %+v", got)
	}
	check("s/one.jsonl")
	// The key goes to its own server only.
	event("two", store.URL+"/moved")
	w.done("r/a", "two")
	if got := <-elsewhere.seen; got.header.Get("X-Goog-Api-Key") != "" {
		t.Errorf("another server was told the key: %+v", got)
	}
	check("s/two.jsonl")
	// By its name from the server, as when Google says gs://.
	w.event("three", `{"type":"x","data":{"id":"../../three","output_file_uri":"gs://bucket/x","file_name":"files/abc"}}`)
	w.done("r/a", "three")
	check("s/.._.._three.jsonl")
	for id, x := range map[string]struct{ path, want string }{
		"gone":    {store.URL + "/gone", "refused: it answered 410"},
		"cut":     {store.URL + "/cut", "failed: unexpected EOF"},
		"big":     {store.URL + "/big", "refused: it has more than 307200 bytes (max_bytes)"},
		"private": {store.URL + "/private", "blocked: the address is private or otherwise not allowed (see egress)"},
		"none":    {"", "misfit: the event points to no result"},
	} {
		event(id, x.path)
		if why := w.dead("r/a", id); why != x.want {
			t.Errorf("%s: got %q, want %q", id, why, x.want)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "s"))
	if err != nil || len(entries) != 6 {
		t.Errorf("%d files are left: %v, %v", len(entries), entries, err)
	}
}

// TestIndependent: an action that fails does not repeat the others, and one that
// hangs does not hold them up.
func TestIndependent(t *testing.T) {
	next := newTarget(t)
	release := make(chan struct{})
	next.say(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hangs":
			<-release
		case "/fails":
			w.WriteHeader(500)
		}
	})
	w := start(t, `
max_running: 3
routes:
  - name: r
    actions:
      - {name: hangs, max_running: 1, http: {url: "`+next.URL+`/hangs", unsigned: true}}
      - {name: fails, max_running: 1, http: {url: "`+next.URL+`/fails", unsigned: true}, retry: {schedule: [1ms, 1ms, 1ms], window: 3ms}}
      - {name: works, max_running: 1, http: {url: "`+next.URL+`/works", unsigned: true}}
`)
	for i := range 20 {
		w.event(fmt.Sprint("msg_", i), succeeded)
	}
	for i := range 20 {
		w.done("r/works", fmt.Sprint("msg_", i))
		w.dead("r/fails", fmt.Sprint("msg_", i))
	}
	close(release)
	for i := range 20 {
		w.done("r/hangs", fmt.Sprint("msg_", i))
	}
	times := map[string]int{}
	for range len(next.seen) {
		r := <-next.seen
		times[r.path+" "+r.header.Get("Webhook-Id")]++
	}
	for i := range 20 {
		id := fmt.Sprint("msg_", i)
		if times["/works "+id] != 1 || times["/fails "+id] != 4 || times["/hangs "+id] != 1 {
			t.Errorf("%s: %d, %d, %d", id, times["/works "+id], times["/fails "+id], times["/hangs "+id])
		}
	}
}

// TestPanic: a fault in one action is its own.
func TestPanic(t *testing.T) {
	w := start(t, routed(`
http: {url: "http://127.0.0.1:1/", unsigned: true}
retry: {window: 1ms}`))
	w.doors.Load().actions["r/a"].doer = faulty{}
	w.event("msg_1", succeeded)
	if why := w.dead("r/a", "msg_1"); why != "panicked: panic: oh" {
		t.Error(why)
	}
}

// faulty is an action with a fault.
type faulty struct{}

func (faulty) do(context.Context, *task) result { panic("oh") }
func (faulty) preview(*task) ([]string, error)  { return nil, nil }
func (faulty) String() string                   { return "" }

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
