package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFullMarks has ringback examine grade the receivers of docs/receive.md, and
// ringback edge: every case is judged, and passed.
func TestFullMarks(t *testing.T) {
	const document = "../docs/receive.md"
	js, py, programs := blocks(t, document, "js"), blocks(t, document, "python"), blocks(t, document, "go")
	python := filepath.Join(cache(t, "python3"), "bin", "python")
	const count = "SELECT count(*) FROM results"
	// What SQLite and PostgreSQL need for the work on one job to fail until the
	// trigger is dropped.
	lite := func() (plant, pull []string) {
		return []string{"CREATE TRIGGER planted BEFORE INSERT ON results WHEN NEW.job = 'planted' BEGIN SELECT RAISE(ABORT, 'the planted failure'); END"},
			[]string{"DROP TRIGGER planted"}
	}
	postgres := func() (plant, pull []string) {
		return []string{"CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the planted failure'; END $$",
				"CREATE TRIGGER planted BEFORE INSERT ON results FOR EACH ROW WHEN (NEW.job = 'planted') EXECUTE FUNCTION planted()"},
			[]string{"DROP TRIGGER planted ON results"}
	}
	// A statement on app.db, as a command: it prints each row on a line.
	query := func(dir string) string {
		file := filepath.Join(dir, "query.py")
		const program = "import sqlite3, sys\nfor row in sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None).execute(sys.argv[2]): print(*row)\n"
		if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %s %s", python, file, filepath.Join(dir, "app.db"))
	}
	sqlite := func(s *sample) string {
		command := query(s.dir)
		s.query = func(t *testing.T, statement string) string {
			t.Helper()
			return runner(t, s.dir, nil, python, append(strings.Fields(command)[1:], statement)...)
		}
		return command + " '" + count + "'"
	}

	t.Run("python", func(t *testing.T) {
		t.Parallel()
		s := newSample(t, t.TempDir(), python, "receiver.py")
		s.write("receiver.py", py[0])
		src, err := filepath.Abs("../clients/python/src")
		if err != nil {
			t.Fatal(err)
		}
		s.env = append(s.env, "PYTHONPATH="+src, "PYTHONDONTWRITEBYTECODE=1")
		s.fullMarks(sqlite(s), lite, s.readKeySetOfExaminer())
	})
	t.Run("javascript", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		modules := filepath.Join(dir, "node_modules")
		if err := os.Mkdir(modules, 0o755); err != nil {
			t.Fatal(err)
		}
		client, err := filepath.Abs("../clients/javascript")
		if err != nil {
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
		s.query = func(t *testing.T, statement string) string {
			t.Helper()
			return runner(t, dir, nil, postgresScript(t), "query", cluster, statement)
		}
		s.fullMarks(fmt.Sprintf("%s query %s '%s'", postgresScript(t), cluster, count), postgres, s.readKeySetOfExaminer())
	})
	t.Run("go", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		s := newSample(t, dir, filepath.Join(dir, "receiver"))
		s.build(programs[0])
		s.fullMarks(sqlite(s), lite, "")
	})
	t.Run("go handler", func(t *testing.T) {
		t.Parallel()
		// The document's function writes a line; its effects are counted there.
		const line, counted = `log.Printf("working on %s: %s", e.ID, e.Body)`, `if e.Attempts == 0 && strings.Contains(string(e.Body), "\"planted\"") {
			return errors.New("the planted failure")
		}
		f, err := os.OpenFile("effects", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteString(e.ID + "\n"); err != nil {
			return err
		}`
		program := programs[1]
		for _, change := range [][2]string{
			{line, counted}, {"https://me.example/hook", audience}, {"\t\"context\"\n", "\t\"context\"\n\t\"errors\"\n\t\"strings\"\n"},
		} {
			if !strings.Contains(program, change[0]) {
				t.Fatalf("the program has no %s", change[0])
			}
			program = strings.Replace(program, change[0], change[1], 1)
		}
		dir := t.TempDir()
		s := newSample(t, dir, filepath.Join(dir, "receiver"))
		s.build(program)
		s.path = "/hook"
		effects := filepath.Join(dir, "effects")
		if err := os.WriteFile(effects, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s.fullMarks("cat "+effects, nil, s.readKeySetOfExaminer())
	})
	t.Run("edge", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		s := newSample(t, dir, binary, "edge", "--config", "edge.yaml")
		keys := s.readKeySetOfExaminer()
		s.path = "/hook"
		s.write("edge.yaml", fmt.Sprintf(`
listen: 127.0.0.1:3000
admin: {listen: "off"}
data: inbox
retry: {schedule: [20ms, 100ms, 500ms, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s]}
egress: {allow_http: true, allow_hosts: [127.0.0.1]}
databases:
  app: {url: "sqlite:app.db"}
sources:
  s: {path: /hook, secret_env: WEBHOOK_SECRET, jwks: %q, audience: %q}
routes:
  - name: row
    type: batch.succeeded
    actions:
      - name: row
        sql: {database: app, statements: [{sql: "INSERT INTO results (job) VALUES (?)", args: [data.id]}]}
`, "http://"+keys+"/.well-known/jwks.json", audience))
		s.oneSecret()
		count := sqlite(s)
		s.query(t, "CREATE TABLE results (job TEXT)")
		s.fullMarks(count, lite, keys)
	})
}

// fullMarks starts the receiver and has it examined. effects is a command that
// counts what it did. failure, if not nil, makes the statements that let the work
// fail, and not any more. keys is where a key set is to be served
// that it verifies by, too, if any.
func (s *sample) fullMarks(effects string, failure func() (plant, pull []string), keys string) {
	s.Helper()
	s.start()
	pulled := make(chan struct{})
	if failure == nil {
		close(pulled)
	} else {
		plant, pull := failure()
		for _, statement := range plant {
			s.query(s.T, statement)
		}
		go func() {
			defer close(pulled)
			// Its log tells of the failure, after which the work may succeed.
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if strings.Contains(s.log.String(), "the planted failure") {
					break
				}
				if s.Context().Err() != nil {
					return
				}
			}
			for _, statement := range pull {
				s.query(s.T, statement)
			}
		}()
	}
	args := []string{"examine", "http://127.0.0.1:" + s.port + s.path, "--secret", strings.ReplaceAll(s.variable("WEBHOOK_SECRET"), " ", ","),
		"--type", "batch.succeeded", "--effects-command", effects, "--fail-set", "data.id=planted", "--json", "--strict"}
	cases := 28
	if keys != "" {
		args = append(args, "--jwks-listen", keys, "--audience", audience, "--v1a")
		cases = 41
	}
	var report struct {
		Passed, Failed int
		Results        []struct {
			Case, Verdict, Got, Reason string
		}
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+s.dir)
	out, err := cmd.Output()
	if err := json.Unmarshal(out, &report); err != nil {
		s.Errorf("the report: %v in %q", err, out)
	}
	for _, r := range report.Results {
		if r.Verdict != "pass" {
			s.Errorf("%s: %s: %s %s", r.Case, r.Verdict, r.Got, r.Reason)
		}
	}
	if err != nil || report.Passed != cases || report.Failed != 0 {
		s.Errorf("%v: %d of %d passed; its log:\n%s", err, report.Passed, cases, tail(s.log.String()))
	}
	<-pulled
	s.stop()
	fmt.Printf("e2e %s: full marks in %d cases\n", s.Name(), report.Passed)
}

// readKeySetOfExaminer has the receiver read the key set that ringback examine
// serves, and returns where that is.
func (s *sample) readKeySetOfExaminer() (address string) {
	s.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	defer l.Close() // The port is the examiner's from here on.
	address = l.Addr().String()
	s.set("RINGBACK_URL", "http://"+address)
	s.set("WEBHOOK_JWKS", "http://"+address+"/.well-known/jwks.json")
	return address
}
