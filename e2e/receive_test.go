package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// TestReceiveDocument runs the receivers of docs/receive.md and sends them what
// senders, operators and forgers send. Each effect must be there once.
func TestReceiveDocument(t *testing.T) {
	const document = "../docs/receive.md"
	js, py, programs := blocks(t, document, "js"), blocks(t, document, "python"), blocks(t, document, "go")
	if len(js) != 1 || len(py) != 1 || len(programs) != 2 {
		t.Fatalf("the document has %d programs in JavaScript, %d in Python and %d in Go; this test knows 1, 1 and 2", len(js), len(py), len(programs))
	}
	python := filepath.Join(cache(t, "python3"), "bin", "python")
	sqlite := func(dir string) func(*testing.T, string) string {
		return func(t *testing.T, query string) string {
			t.Helper()
			const program = "import sqlite3, sys\nfor row in sqlite3.connect('app.db', timeout=10, isolation_level=None).execute(sys.argv[1]): print(*row)"
			return runner(t, dir, nil, python, "-c", program, query)
		}
	}
	t.Run("python", func(t *testing.T) {
		dir := t.TempDir()
		src, err := filepath.Abs("../clients/python/src")
		if err != nil {
			t.Fatal(err)
		}
		s := newSample(t, dir, python, "receiver.py")
		s.write("receiver.py", py[0])
		s.env = append(s.env, "PYTHONPATH="+src, "PYTHONDONTWRITEBYTECODE=1")
		s.query = sqlite(dir)
		s.remember = "INSERT INTO seen VALUES ('msg_fresh', unixepoch() - 37 * 86400), ('msg_ancient', unixepoch() - 39 * 86400)"
		s.examine(true)
	})
	t.Run("javascript", func(t *testing.T) {
		dir := t.TempDir()
		client, err := filepath.Abs("../clients/javascript")
		if err != nil {
			t.Fatal(err)
		}
		modules := filepath.Join(dir, "node_modules")
		if err := os.Mkdir(modules, 0o755); err != nil {
			t.Fatal(err)
		}
		for from, to := range map[string]string{client: "ringback-webhook", filepath.Join(cache(t, "js"), "node_modules", "pg"): "pg"} {
			if err := os.Symlink(from, filepath.Join(modules, to)); err != nil {
				t.Fatal(err)
			}
		}
		cluster := newPostgres(t)
		s := newSample(t, dir, node(t), "receiver.mjs")
		s.write("receiver.mjs", js[0])
		s.env = append(s.env, "DATABASE_URL=postgres://ringback@localhost/postgres?host="+cluster)
		s.query = func(t *testing.T, query string) string {
			t.Helper()
			return runner(t, dir, nil, postgresScript(t), "query", cluster, query)
		}
		s.remember = "INSERT INTO seen VALUES ('msg_fresh', now() - interval '37 days'), ('msg_ancient', now() - interval '39 days')"
		s.examine(true)

		// Whoever adds an effect that hides an error loses no message: PostgreSQL answers
		// COMMIT with ROLLBACK.
		const effect = `[event.data.id]);`
		s.write("receiver.mjs", strings.Replace(js[0], effect, `[event.data.id]).catch(() => {});`, 1))
		if !strings.Contains(js[0], effect) {
			t.Fatalf("the sample has no %s", effect)
		}
		s.start()
		s.query(t, "ALTER TABLE results RENAME TO away")
		if got := s.post(s.message("msg_hidden", "hidden")); got < 500 {
			t.Errorf("an effect that failed is answered %d", got)
		}
		s.stop()
	})
	t.Run("go", func(t *testing.T) {
		dir := t.TempDir()
		s := newSample(t, dir, filepath.Join(dir, "receiver"))
		s.build(programs[0])
		s.query = sqlite(dir)
		s.remember = "INSERT INTO ringback_seen VALUES ('msg_fresh', (unixepoch() - 37 * 86400) * 1000000), ('msg_ancient', (unixepoch() - 39 * 86400) * 1000000)"
		s.examine(false)
	})
	t.Run("go handler", func(t *testing.T) {
		dir := t.TempDir()
		s := newSample(t, dir, filepath.Join(dir, "receiver"))
		s.build(strings.ReplaceAll(programs[1], "https://me.example/hook", audience))
		s.path = "/hook"
		s.start()
		s.answers(true)
		s.stop()
	})
}

func postgresScript(t *testing.T) string {
	t.Helper()
	script, err := filepath.Abs("../scripts/postgres.sh")
	if err != nil {
		t.Fatal(err)
	}
	return script
}

// newPostgres starts a PostgreSQL and returns its folder.
func newPostgres(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ringback-pg-") // The address of a socket is short.
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // It runs as a user of its own.
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command(postgresScript(t), "stop", dir, "immediate").Run() // It may not have started.
		_ = os.RemoveAll(dir)
	})
	runner(t, ".", nil, postgresScript(t), "start", dir)
	return dir
}

const audience = "https://receiver.example/hook"

// logBuffer is read while a process writes to it.
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

// sample is a receiver of the document.
type sample struct {
	*testing.T
	dir, port, path string
	args            []string
	env             []string
	// query runs a statement on the receiver's database.
	query func(t *testing.T, query string) string
	// remember is a statement that has ids msg_fresh and msg_ancient seen 37 and 39 days
	// ago.
	remember string
	secrets  [2]*standardwebhooks.Webhook // Newest first.
	key      *rsa.PrivateKey
	cmd      *exec.Cmd
	ended    chan struct{} // Closed when cmd has ended.
	log      *logBuffer
}

func newSample(t *testing.T, dir string, args ...string) *sample {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // The port is the receiver's from here on.
	s := &sample{T: t, dir: dir, port: fmt.Sprint(l.Addr().(*net.TCPAddr).Port), path: "/", args: args}
	var texts []string
	for i := range s.secrets {
		raw := make([]byte, 32)
		_, _ = rand.Read(raw) // Never fails.
		texts = append(texts, "whsec_"+base64.StdEncoding.EncodeToString(raw))
		if s.secrets[i], err = standardwebhooks.NewWebhook(texts[i]); err != nil {
			t.Fatal(err)
		}
	}
	if s.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"keys":[{"kty":"RSA","kid":"k1","alg":"RS256","use":"sig","n":%q,"e":"AQAB"}]}`, base64.RawURLEncoding.EncodeToString(s.key.N.Bytes()))
	}))
	t.Cleanup(keys.Close)
	s.env = append(os.Environ(), "WEBHOOK_SECRET="+strings.Join(texts, " "), "WEBHOOK_JWKS="+keys.URL+"/.well-known/jwks.json", "RINGBACK_URL="+keys.URL, "WEBHOOK_AUDIENCE="+audience)
	return s
}

// write writes the program, on a port of its own.
func (s *sample) write(name, program string) {
	s.Helper()
	if !strings.Contains(program, "3000") {
		s.Fatal("the program does not name port 3000")
	}
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(strings.ReplaceAll(program, "3000", s.port)), 0o644); err != nil {
		s.Fatal(err)
	}
}

// build compiles a program as a package of the module, without writing into it. A
// program in Go takes one secret.
func (s *sample) build(program string) {
	s.Helper()
	s.write("receiver.go", program)
	root, err := filepath.Abs("..")
	if err != nil {
		s.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "docsample", "main.go"): filepath.Join(s.dir, "receiver.go")}})
	if err != nil {
		s.Fatal(err)
	}
	file := filepath.Join(s.dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o644); err != nil {
		s.Fatal(err)
	}
	runner(s.T, "..", nil, "go", "build", "-overlay", file, "-o", s.args[0], "./docsample")
	s.oneSecret()
}

// oneSecret leaves the receiver the newest of its secrets.
func (s *sample) oneSecret() {
	s.Helper()
	s.set("WEBHOOK_SECRET", strings.Fields(s.variable("WEBHOOK_SECRET"))[0])
}

// variable is a variable of the receiver's environment.
func (s *sample) variable(name string) string {
	s.Helper()
	for _, v := range slices.Backward(s.env) {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	s.Fatalf("the receiver has no %s", name)
	return ""
}

// set sets one; the last of a name counts.
func (s *sample) set(name, value string) { s.env = append(s.env, name+"="+value) }

// start starts the receiver and waits until it listens.
func (s *sample) start() {
	s.Helper()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Dir, s.cmd.Env = s.dir, s.env
	s.log = new(logBuffer)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	cmd, ended := s.cmd, make(chan struct{})
	s.ended = ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	s.Cleanup(func() {
		_ = cmd.Process.Kill() // It has ended unless the test broke off.
		<-ended
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; {
		conn, err := net.Dial("tcp", "127.0.0.1:"+s.port)
		if err == nil {
			_ = conn.Close()
			break
		}
		select {
		case <-tick.C:
		case <-ended:
			s.Fatalf("the receiver ended: %s", s.log)
		}
		if time.Now().After(deadline) {
			s.Fatal("the receiver does not listen")
		}
	}
}

// stop kills the receiver, as nothing that it has acknowledged may be lost by it.
func (s *sample) stop() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// message is a callback, as it is sent.
type message struct {
	id, body, signature string
	at                  time.Time
}

func event(kind, job string) string {
	return fmt.Sprintf(`{"type":%q,"version":"v1","timestamp":"2026-01-22T12:00:00Z","data":{"id":%q,"output_file_uri":"gs://my-bucket/results.jsonl"}}`, kind, job)
}

func (s *sample) sign(with *standardwebhooks.Webhook, id string, at time.Time, body string) string {
	s.Helper()
	signature, err := with.Sign(id, at, []byte(body))
	if err != nil {
		s.Fatal(err)
	}
	return signature
}

// message is a good one about the job.
func (s *sample) message(id, job string) message {
	m := message{id: id, body: event("batch.succeeded", job), at: time.Now()}
	m.signature = s.sign(s.secrets[0], m.id, m.at, m.body)
	return m
}

// token is one that is signed with a JWT.
func (s *sample) token(id, job string, change func(claims jwt.MapClaims, header map[string]any)) message {
	s.Helper()
	m := s.message(id, job)
	sum := sha256.Sum256([]byte(m.body))
	claims := jwt.MapClaims{"iss": "x", "aud": []string{audience, "project"}, "iat": m.at.Unix(), "exp": m.at.Add(5 * time.Minute).Unix(), "jti": id, "body_sha256": hex.EncodeToString(sum[:])}
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	t.Header["kid"] = "k1"
	if change != nil {
		change(claims, t.Header)
	}
	var err error
	if m.signature, err = t.SignedString(s.key); err != nil {
		s.Fatal(err)
	}
	return m
}

// sender gives up after the time that senders wait.
var sender = &http.Client{Timeout: 15 * time.Second}

// post sends a message and returns the status, 0 if there was no answer.
func (s *sample) post(m message) int {
	s.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://127.0.0.1:"+s.port+s.path, strings.NewReader(m.body))
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range map[string]string{"webhook-id": m.id, "webhook-timestamp": strconv.FormatInt(m.at.Unix(), 10), "webhook-signature": m.signature} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := sender.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// jobs are those whose effect is there, with its number.
func (s *sample) jobs() map[string]int {
	s.Helper()
	found := make(map[string]int)
	for _, job := range strings.Fields(s.query(s.T, "SELECT job FROM results")) {
		found[job]++
	}
	return found
}

// answers sends what is good and what is not. all: with tokens, and two secrets.
func (s *sample) answers(all bool) {
	s.Helper()
	expect := func(name string, m message, want ...int) {
		s.Helper()
		got := s.post(m)
		for _, w := range want {
			if got == w || w == 400 && got == 401 {
				return
			}
		}
		s.Errorf("%s: answered %d, want %d; its log:\n%s", name, got, want, tail(s.log.String()))
	}
	good := s.message("msg_good", "good")
	expect("good", good, 204)
	expect("double", good, 204)
	late := s.message("msg_good", "good")
	late.at = late.at.Add(time.Second)
	late.signature = s.sign(s.secrets[0], late.id, late.at, late.body)
	expect("double of a later attempt", late, 204)
	unknown := s.message("msg_unknown", "unknown")
	unknown.body = event("nobody.knows", "unknown")
	unknown.signature = s.sign(s.secrets[0], unknown.id, unknown.at, unknown.body)
	expect("unknown type", unknown, 204)
	odd := s.message("msg_odd", "odd")
	odd.body = `["not an event"]`
	odd.signature = s.sign(s.secrets[0], odd.id, odd.at, odd.body)
	expect("not an event", odd, 204)
	both := s.message("msg_both", "both")
	other, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32)))
	if err != nil {
		s.Fatal(err)
	}
	both.signature = s.sign(other, both.id, both.at, both.body) + " " + both.signature
	expect("both secrets of a rotation", both, 204)
	pretty := s.message("msg_pretty", "pretty")
	var indented bytes.Buffer
	if err := json.Indent(&indented, []byte(pretty.body), "", "  "); err != nil {
		s.Fatal(err)
	}
	reprinted := pretty
	pretty.body = indented.String()
	pretty.signature = s.sign(s.secrets[0], pretty.id, pretty.at, pretty.body)
	expect("pretty-printed by the sender", pretty, 204)
	reprinted.id, reprinted.body = "msg_reprinted", pretty.body
	expect("pretty-printed on the way", reprinted, 400)

	for name, age := range map[string]time.Duration{"stale": 6 * time.Minute, "future": -6 * time.Minute} {
		m := s.message("msg_"+name, name)
		m.at = m.at.Add(-age)
		m.signature = s.sign(s.secrets[0], m.id, m.at, m.body)
		expect(name, m, 400)
	}
	for name, change := range map[string]func(*message){
		"forged":       func(m *message) { m.signature = "v1," + base64.StdEncoding.EncodeToString(make([]byte, 32)) },
		"tampered":     func(m *message) { m.body = event("batch.succeeded", "other") },
		"wrong-secret": func(m *message) { m.signature = s.sign(other, m.id, m.at, m.body) },
		"other-id":     func(m *message) { m.id = "msg_x" },
		"no-id":        func(m *message) { m.id = "" },
		"no-signature": func(m *message) { m.signature = "" },
		"alg-none":     func(m *message) { m.signature = "eyJhbGciOiJub25lIn0.e30." },
	} {
		m := s.message("msg_"+name, name)
		change(&m)
		expect(name, m, 400)
	}
	huge := s.message("msg_huge", "huge")
	huge.body = event("batch.succeeded", strings.Repeat("x", 2<<20))
	huge.signature = s.sign(s.secrets[0], huge.id, huge.at, huge.body)
	expect("huge", huge, 413, 0) // It may close the connection before all was sent.
	if !all {
		return
	}
	expect("JWT", s.token("msg_jwt", "jwt", nil), 204)
	for name, change := range map[string]func(jwt.MapClaims, map[string]any){
		"kid":      func(_ jwt.MapClaims, h map[string]any) { h["kid"] = "nobody" },
		"audience": func(c jwt.MapClaims, _ map[string]any) { c["aud"] = "https://other.example/" },
		"body":     func(c jwt.MapClaims, _ map[string]any) { c["body_sha256"] = strings.Repeat("0", 64) },
		"expired":  func(c jwt.MapClaims, _ map[string]any) { c["exp"] = time.Now().Add(-6 * time.Minute).Unix() },
	} {
		expect("JWT: "+name, s.token("msg_jwt_"+name, "jwt-"+name, change), 400)
	}
	if strings.Contains(s.name(), "handler") {
		return // It takes one secret.
	}
	old := s.message("msg_old", "old")
	old.signature = s.sign(s.secrets[1], old.id, old.at, old.body)
	expect("the older secret", old, 204)
}

func (s *sample) name() string { return s.T.Name() }

// examine sends everything, and looks at the effects.
func (s *sample) examine(all bool) {
	s.Helper()
	s.start()
	s.slow(func() { s.answers(all) })
	want := []string{"good", "both", "pretty"}
	if all {
		want = append(want, "jwt", "old")
	}

	// A failure releases the claim.
	s.query(s.T, "ALTER TABLE results RENAME TO away")
	failing := s.message("msg_failing", "failing")
	if got := s.post(failing); got < 500 {
		s.Errorf("the failure was answered %d", got)
	}
	s.query(s.T, "ALTER TABLE away RENAME TO results")
	if got := s.post(failing); got != 204 {
		s.Errorf("the attempt after the failure was answered %d:\n%s", got, tail(s.log.String()))
	}
	want = append(want, "failing")

	// Many doubles at once, while it is killed twice.
	const jobs, doubles = 30, 4
	var wg sync.WaitGroup
	acknowledged := make(chan struct{}, jobs*doubles)
	for i := range jobs {
		job := fmt.Sprint("job-", i)
		want = append(want, job)
		for range doubles {
			wg.Go(func() {
				m := s.message("msg_"+job, job)
				deadline := time.After(time.Minute)
				for s.post(m) != 204 {
					select {
					case <-time.After(50 * time.Millisecond): // It was killed.
					case <-deadline:
						s.Errorf("%s is not acknowledged", m.id)
						return
					}
				}
				acknowledged <- struct{}{}
			})
		}
	}
	for i := range jobs * doubles {
		if i == 10 || i == 40 {
			s.stop()
			s.start()
		}
		<-acknowledged
	}
	wg.Wait()

	// Ids are remembered for 38 days.
	s.query(s.T, s.remember)
	s.stop()
	s.start()
	if got := s.post(s.message("msg_fresh", "fresh")); got != 204 {
		s.Errorf("the double after 37 days was answered %d", got)
	}
	table := strings.Fields(s.remember)[2]
	for deadline := time.Now().Add(20 * time.Second); s.query(s.T, "SELECT id FROM "+table+" WHERE id = 'msg_ancient'") != ""; {
		if time.Now().After(deadline) {
			s.Error("the id of 39 days ago is not swept")
			break
		}
	}
	got := s.jobs()
	for _, job := range want {
		if got[job] != 1 {
			s.Errorf("%s has %d effects", job, got[job])
		}
		delete(got, job)
	}
	for job := range got {
		s.Errorf("%s has an effect", job)
	}
	s.stop()
	fmt.Printf("e2e %s: %d jobs had their effect once\n", s.T.Name(), len(want))
}

// slow holds a request whose body does not come, while others are served, and waits
// until it is refused or cut off.
func (s *sample) slow(meanwhile func()) {
	s.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+s.port)
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close()
	m := s.message("msg_slow", "slow")
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nwebhook-id: %s\r\nwebhook-timestamp: %d\r\nwebhook-signature: %s\r\n\r\n%s",
		s.path, len(m.body), m.id, m.at.Unix(), m.signature, m.body[:20]); err != nil {
		s.Fatal(err)
	}
	meanwhile()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "reset") || bytes.HasPrefix(answer, []byte("HTTP/1.1 2")) || bytes.HasPrefix(answer, []byte("HTTP/1.0 2")) {
		s.Errorf("the slow body: %q, %v", answer, err)
	}
}
