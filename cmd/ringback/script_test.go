package main

import (
	"bufio"
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite"

	"ringback.dev/webhook"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"ringback": main}) }

// TestScripts runs the commands as a user does. Beside what testscript offers,
// a script has these commands:
//
//	server ARGS    start ringback ARGS and wait until it listens. $SERVER is its
//	               address then, $OUT names a file with its standard output.
//	stop           send SIGTERM to the server; it must end with exit code 0.
//	save VAR TEXT  set VAR to the rest of the first line of output that begins with TEXT.
//	busy VAR       run another program's server; VAR is set to its HOST:PORT.
//	exit CODE CMD  run a command that must end with exactly this exit code.
//	lines N        the last standard error must have exactly N lines.
//	receiver VAR FILE STATUS…
//	               run a receiver that answers with these statuses in turn, the last
//	               one for ever; VAR is set to its address. FILE gets a line for
//	               each message: status, type, webhook-id, and "verified" or why not,
//	               by the development secret.
//	examinee VAR JWKS FAULT
//	               run a receiver that can be examined; VAR is set to its base address,
//	               with /hook and /effects, JWKS to a HOST:PORT where it looks for a key
//	               set. FAULT is none, or doubles: it acts on each message.
//	waitfor TEXT ARGS
//	               run ringback ARGS again and again until it prints TEXT.
//	begin NAME TEXT ARGS
//	               start ringback ARGS and wait for a line of output that holds TEXT.
//	interrupt NAME what begin has started gets Ctrl-C and must end with exit code 0;
//	               what it printed is in the file NAME.
//	post SECRET ID FILE  send a file to $SERVER/s, signed with the secret of the edge's
//	               script ("s") or with another; standard output is the status.
//	logged PATTERN wait until the server's log, since the last hangup, matches.
//	! loggedanything TEXT  the server's log must not have the text.
//	hangup         send SIGHUP to the server.
//	sqlite FILE SQL  run a statement and print the first column of its rows.
func TestScripts(t *testing.T) {
	params := scriptParams()
	params.Dir = "testdata/script"
	testscript.Run(t, params)
}

// scriptParams is how scripts are run, but for where they are.
func scriptParams() testscript.Params {
	return testscript.Params{
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Values[serverKey{}] = &background{}
			e.Values[begunKey{}] = make(map[string]*begun)
			e.Vars = append(e.Vars, "TMPDIR="+e.WorkDir, "XDG_CONFIG_HOME="+filepath.Join(e.WorkDir, "config"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server": startServer, "stop": stopServer, "save": save, "busy": busy, "exit": exitCode, "lines": lines,
			"receiver": receiver, "examinee": examinee, "waitfor": waitFor, "begin": begin, "interrupt": interrupt,
			"post": postSigned, "logged": logged, "loggedanything": loggedAnything, "hangup": hangup, "sqlite": sqliteCommand,
		},
	}
}

type serverKey struct{}

// background is the server of a script, one at a time.
type background struct {
	cmd *exec.Cmd
	log *scriptLog
}

// scriptLog is what a server has written to its standard error.
type scriptLog struct {
	mu   sync.Mutex
	text bytes.Buffer
	read int // How much of it was waited for.
	news *sync.Cond
}

func newScriptLog() *scriptLog {
	l := &scriptLog{}
	l.news = sync.NewCond(&l.mu)
	return l
}

func (l *scriptLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(b)
	l.news.Broadcast()
	return len(b), nil
}

func (l *scriptLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func startServer(ts *testscript.TestScript, _ bool, args []string) {
	b := ts.Value(serverKey{}).(*background)
	if b.cmd != nil {
		ts.Fatalf("a server runs already")
	}
	b.log = newScriptLog()
	b.cmd = command(ts, args)
	b.cmd.Stderr = b.log
	out, err := b.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(b.cmd.Start())
	ts.Defer(func() {
		if b.cmd != nil {
			_ = b.cmd.Process.Kill() // The script broke off.
			_ = b.cmd.Wait()
		}
	})
	late := time.AfterFunc(20*time.Second, func() { _ = b.cmd.Process.Kill() })
	defer late.Stop()
	var said strings.Builder
	for scan := bufio.NewScanner(out); scan.Scan(); {
		said.WriteString(scan.Text() + "\n")
		if url, ok := strings.CutPrefix(scan.Text(), "listening on "); ok {
			file := ts.MkAbs("server.out")
			ts.Check(os.WriteFile(file, []byte(said.String()), 0o600))
			// What follows, if anything, is nobody's business; the pipe must not fill up.
			go func() { _, _ = io.Copy(io.Discard, out) }()
			ts.Setenv("SERVER", url)
			ts.Setenv("OUT", file)
			return
		}
	}
	err = b.cmd.Wait()
	b.cmd = nil
	ts.Fatalf("the server did not start: %v\n%s%s", err, said.String(), b.log.String())
}

func stopServer(ts *testscript.TestScript, _ bool, _ []string) {
	b := ts.Value(serverKey{}).(*background)
	if b.cmd == nil {
		ts.Fatalf("no server runs")
	}
	cmd := b.cmd
	late := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	err := cmd.Wait()
	b.cmd = nil
	if err != nil {
		ts.Fatalf("the server ended with %v\n%s", err, b.log.String())
	}
}

// command is ringback with the script's environment.
func command(ts *testscript.TestScript, args []string) *exec.Cmd {
	path, err := exec.LookPath("ringback")
	ts.Check(err)
	cmd := exec.Command(path, args...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOME", "PATH", "TMPDIR", "XDG_CONFIG_HOME", "GEMINI_API_KEY", "RINGBACK_SERVER", "HOOK_SECRET"} {
		if v := ts.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	return cmd
}

func save(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: save VAR TEXT")
	}
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), args[1]); ok {
			ts.Setenv(args[0], strings.TrimSpace(rest))
			return
		}
	}
	// Or a word of a line does.
	for word := range strings.FieldsSeq(ts.ReadFile("stdout")) {
		if rest, ok := strings.CutPrefix(word, args[1]); ok {
			ts.Setenv(args[0], rest)
			return
		}
	}
	ts.Fatalf("no line or word begins with %q", args[1])
}

func busy(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: busy VAR")
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	ts.Defer(srv.Close)
	ts.Setenv(args[0], srv.Listener.Addr().String())
}

func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exit CODE COMMAND")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exited *exec.ExitError
	if errors.As(err, &exited) {
		code = exited.ExitCode()
	} else {
		ts.Check(err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func lines(ts *testscript.TestScript, _ bool, args []string) {
	if n := strings.Count(ts.ReadFile("stderr"), "\n"); len(args) != 1 || fmt.Sprint(n) != args[0] {
		ts.Fatalf("%d lines on standard error, want %v", n, args)
	}
}

func receiver(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: receiver VAR FILE STATUS…")
	}
	var statuses []int
	for _, text := range args[2:] {
		n, err := strconv.Atoi(text)
		ts.Check(err)
		statuses = append(statuses, n)
	}
	file := ts.MkAbs(args[1])
	secretFile := filepath.Join(ts.Getenv("XDG_CONFIG_HOME"), "ringback", "dev-secret")
	var mu sync.Mutex
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		said := "verified"
		text, err := os.ReadFile(secretFile)
		var secret webhook.Secret
		if err == nil {
			secret, err = webhook.ParseSecret(strings.TrimSpace(string(text)))
		}
		if err == nil {
			_, err = (&webhook.Verifier{Secrets: []webhook.Secret{secret}}).Verify(r.Header, body)
		}
		if err != nil {
			said = err.Error()
		}
		e, _ := webhook.ParseEvent(body)
		mu.Lock()
		defer mu.Unlock()
		status := statuses[0]
		if len(statuses) > 1 {
			statuses = statuses[1:]
		}
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			fmt.Fprintf(f, "%d %s %s %s\n", status, e.Type, r.Header.Get("webhook-id"), said)
			err = f.Close()
		}
		if err != nil {
			status = http.StatusTeapot
		}
		http.Error(w, "said "+strconv.Itoa(status), status)
	}))
	ts.Defer(srv.Close)
	ts.Setenv(args[0], srv.URL+"/hook")
}

type begunKey struct{}

// begun is a command that runs beside a script.
type begun struct {
	cmd  *exec.Cmd
	out  bytes.Buffer // Read after done is closed.
	done chan struct{}
}

func begin(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: begin NAME TEXT ARGS")
	}
	b := &begun{cmd: command(ts, args[2:]), done: make(chan struct{})}
	b.cmd.Stderr = &b.out // It is read when the process has ended.
	out, err := b.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(b.cmd.Start())
	ts.Value(begunKey{}).(map[string]*begun)[args[0]] = b
	ts.Defer(func() {
		_ = b.cmd.Process.Kill() // Nothing happens if it has ended.
		<-b.done
	})
	ready := make(chan struct{})
	go func() {
		defer close(b.done)
		var said strings.Builder
		found := false
		for scan := bufio.NewScanner(out); scan.Scan(); {
			said.WriteString(scan.Text() + "\n")
			if !found && strings.Contains(scan.Text(), args[1]) {
				found = true
				close(ready)
			}
		}
		_ = b.cmd.Wait() // interrupt looks at the exit code.
		b.out.WriteString(said.String())
	}()
	select {
	case <-ready:
	case <-b.done:
		ts.Fatalf("%v ended without saying %q:\n%s", args[2:], args[1], b.out.String())
	case <-time.After(20 * time.Second):
		ts.Fatalf("%v does not say %q", args[2:], args[1])
	}
}

func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: interrupt NAME")
	}
	b := ts.Value(begunKey{}).(map[string]*begun)[args[0]]
	if b == nil {
		ts.Fatalf("nothing was begun as %s", args[0])
	}
	ts.Check(b.cmd.Process.Signal(os.Interrupt))
	select {
	case <-b.done:
	case <-time.After(20 * time.Second):
		ts.Fatalf("%s does not end", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.out.Bytes(), 0o600))
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		ts.Fatalf("%s ended with %d:\n%s", args[0], code, b.out.String())
	}
}

func examinee(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: examinee VAR JWKS FAULT")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	jwks := l.Addr().String()
	ts.Check(l.Close())
	text, err := os.ReadFile(filepath.Join(ts.Getenv("XDG_CONFIG_HOME"), "ringback", "dev-secret"))
	ts.Check(err)
	secret, err := webhook.ParseSecret(strings.TrimSpace(string(text)))
	ts.Check(err)
	v := &webhook.Verifier{Secrets: []webhook.Secret{secret}, Keys: webhook.NewKeySet("http://" + jwks + "/.well-known/jwks.json")}
	var mu sync.Mutex
	seen, failed, effects := make(map[string]bool), make(map[string]bool), 0
	mux := http.NewServeMux()
	mux.HandleFunc("GET /effects", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, `{"count":%d}`, effects)
	})
	mux.Handle("/hook", webhook.Handler(v, func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(string(m.Body), `"fail":"once"`) && !failed[m.ID] {
			failed[m.ID] = true
			http.Error(w, "the database is locked", http.StatusInternalServerError)
			return
		}
		if !seen[m.ID] || args[2] == "doubles" {
			seen[m.ID] = true
			effects++
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	srv := httptest.NewServer(mux)
	ts.Defer(srv.Close)
	v.Audience = []string{srv.URL + "/hook"}
	ts.Setenv(args[0], srv.URL)
	ts.Setenv(args[1], jwks)
}

func postSigned(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: post SECRET ID FILE")
	}
	secret := webhook.NewSecret()
	if args[0] == "s" {
		var err error
		secret, err = webhook.ParseSecret(ts.Getenv("HOOK_SECRET"))
		ts.Check(err)
	}
	body := ts.ReadFile(args[2])
	now := time.Now()
	req, err := http.NewRequest(http.MethodPost, ts.Getenv("SERVER")+"/s", strings.NewReader(body))
	ts.Check(err)
	req.Close = true
	req.Header.Set(webhook.HeaderID, args[1])
	req.Header.Set(webhook.HeaderTimestamp, fmt.Sprint(now.Unix()))
	req.Header.Set(webhook.HeaderSignature, webhook.Sign(args[1], now, []byte(body), secret))
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	ts.Check(resp.Body.Close())
	_, err = fmt.Fprintln(ts.Stdout(), resp.StatusCode)
	ts.Check(err)
}

func logged(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: logged PATTERN")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	l := ts.Value(serverKey{}).(*background).log
	l.mu.Lock()
	defer l.mu.Unlock()
	late := false
	defer time.AfterFunc(20*time.Second, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		late = true
		l.news.Broadcast()
	}).Stop()
	for {
		if m := pattern.FindIndex(l.text.Bytes()[l.read:]); m != nil {
			return
		}
		if late {
			ts.Fatalf("no %q in the log:\n%s", args[0], l.text.String())
		}
		l.news.Wait()
	}
}

func loggedAnything(ts *testscript.TestScript, neg bool, args []string) {
	if log := ts.Value(serverKey{}).(*background).log.String(); len(args) != 1 || strings.Contains(log, args[0]) == neg {
		ts.Fatalf("%v in the log is %v:\n%s", args, !neg, log)
	}
}

func hangup(ts *testscript.TestScript, _ bool, _ []string) {
	b := ts.Value(serverKey{}).(*background)
	b.log.mu.Lock()
	b.log.read = b.log.text.Len()
	b.log.mu.Unlock()
	ts.Check(b.cmd.Process.Signal(syscall.SIGHUP))
}

func sqliteCommand(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: sqlite FILE SQL")
	}
	db, err := sql.Open("sqlite", "file:"+ts.MkAbs(args[0])+"?_pragma=busy_timeout(10000)")
	ts.Check(err)
	defer db.Close()
	rows, err := db.Query(args[1])
	ts.Check(err)
	defer rows.Close()
	for rows.Next() {
		var v any
		ts.Check(rows.Scan(&v))
		_, err := fmt.Fprintln(ts.Stdout(), v)
		ts.Check(err)
	}
	ts.Check(rows.Err())
}

func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: waitfor TEXT ARGS")
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		out, _ := command(ts, args[1:]).CombinedOutput() // Its exit code does not matter.
		if strings.Contains(string(out), args[0]) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v does not print %q:\n%s", args[1:], args[0], out)
		}
	}
}
