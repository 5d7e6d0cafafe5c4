package edge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// good is a file that has everything, for the cases below to change.
const good = `listen: 127.0.0.1:0
egress: {allow_http: true, allow_hosts: [127.0.0.1]}
servers:
  here: {url: "http://127.0.0.1:1", api_key_env: EDGE_KEY}
databases:
  main: {url: "sqlite:x.db"}
mail:
  m: {server: "127.0.0.1:25", from: a@example.com, tls: none}
sources:
  s:
    path: /s
    secret_env: EDGE_TEST_SECRET
routes:
  - name: r
    source: s
    type: batch.*
    when: data.n > 1
    actions:
      - {name: h, http: {url: "http://127.0.0.1:1/x", secret_env: EDGE_TEST_SECRET}}
      - {name: e, exec: {command: [/bin/true]}}
      - {name: q, sql: {database: main, statements: [{sql: SELECT 1}]}}
      - {name: j, job: {server: here, kind: interaction, model: m, body: {input: x}}}
      - {name: n, notify: {slack_env: EDGE_CHAT, text: x}}
      - {name: f, fetch: {folder: /tmp}}
      - {name: b, fetch: {bucket: kept}}
buckets:
  kept: {url: "http://127.0.0.1:1", bucket: results, access_key_id_env: EDGE_S3_ID, secret_access_key_env: EDGE_S3_SECRET}
`

// check reads a text as New would.
func check(t *testing.T, text string) []string {
	t.Helper()
	s, err := prepare([]byte(text))
	if err == nil {
		s.close()
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func TestConfigErrors(t *testing.T) {
	t.Setenv("EDGE_TEST_SECRET", secret)
	t.Setenv("EDGE_KEY", "rbk_x")
	t.Setenv("EDGE_CHAT", "http://127.0.0.1:1/services/hush")
	t.Setenv("EDGE_BAD_SECRET", "whsec_hush")
	t.Setenv("EDGE_EMPTY", "")
	t.Setenv("EDGE_LINES", "hush\nhush")
	t.Setenv("EDGE_S3_ID", "AKIA")
	t.Setenv("EDGE_S3_SECRET", "hush")
	if err := os.Unsetenv("EDGE_UNSET"); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := check(t, good); got != nil {
		t.Fatalf("the file is not good: %v", got)
	}
	for name, x := range map[string]struct{ old, new, want string }{
		"unknown key":     {"listen: 127", "lisen: 127", "line 1: lisen: there is no such key; did you mean listen?"},
		"unknown nested":  {"path: /s", "path: /s\n    secrets: x", "line 12: sources.s.secrets: there is no such key; here are allow_from, allow_unbound, audience, issuer, jwks, max_body, path, public_keys, secret_env, secret_file, tolerance"},
		"unknown in list": {"{name: e, exec:", "{name: e, timout: 1s, exec:", "line 20: routes[0].actions[1].timout: there is no such key; did you mean timeout?"},
		"wrong type":      {"listen: 127.0.0.1:0", "max_running: many", `line 1: the text ` + "`many`" + ` is not a whole number`},
		"wrong duration":  {"listen: 127.0.0.1:0", "keep: long", "line 1: the text `long` is not a duration such as 30s or 24h"},
		"no mapping":      {"listen: 127.0.0.1:0", "retry: 5", "line 1: the number `5` is not a mapping of keys to values"},
		"no list":         {"routes:\n  - name: r\n", "routes:\n    name: r\n", "line 14: a mapping is not a list"},
		"bare template":   {"text: x}", "text: {{ type }}}", `line 23: a mapping is not a text; quote what begins with {{: "{{ … }}"`},
		"tabs":            {"listen: 127.0.0.1:0", "\tlisten: x", "found character that cannot start any token; indent with spaces, not tabs"},
		"not yaml":        {"listen: 127.0.0.1:0", "listen: [", "line 2: did not find expected ',' or ']'; within [ ] and { }, quote texts that hold any of ? , [ ] { }"},
		"two documents":   {"listen: 127.0.0.1:0", "listen: 127.0.0.1:0\n---\na: 1\n---", "there is more than one document; keep one and remove the ---"},
		"double key":      {"listen: 127.0.0.1:0", "listen: a\nlisten: b", `line 2: mapping key "listen" already defined at line 1`},
		"listen":          {"listen: 127.0.0.1:0", "listen: localhost", `line 1: listen: "localhost" is not HOST:PORT, for example 127.0.0.1:8090`},
		"admin":           {"listen: 127.0.0.1:0", "admin: {listen: none}", `line 1: admin.listen: "none" is not HOST:PORT, for example 127.0.0.1:8091`},
		"keep":            {"listen: 127.0.0.1:0", "keep: 1h", "line 1: keep: 1h is not between 24h and 87600h"},
		"retry":           {"listen: 127.0.0.1:0", "retry: {schedule: [1s, 48h]}", "line 1: retry.schedule[1]: 48h is not between 1ms and 24h"},
		"log":             {"listen: 127.0.0.1:0", "log: {level: loud}", `line 1: log.level: "loud" is none of debug, info, warn, error`},
		"proxy":           {"listen: 127.0.0.1:0", "trusted_proxies: [10.0.0.1/8]", `line 1: trusted_proxies[0]: "10.0.0.1/8" is not a prefix such as 10.1.0.0/16`},
		"tls":             {"listen: 127.0.0.1:0", "tls: {cert: x.pem}", "line 1: tls: cert and key belong together; give both files"},
		"no certificate":  {"listen: 127.0.0.1:0", "tls: {cert: nowhere.pem, key: nowhere.pem}", "line 1: tls: the certificate can't be used: open nowhere.pem: no such file or directory"},
		"proxy password":  {"egress: {", `egress: {proxy: "http://me:hush@proxy:1", `, "line 2: egress.proxy: it holds a password; put the whole address into a variable and name it in proxy_env"},
		"egress of a URL": {"allow_http: true, ", "", "line 4: servers.here.url: it must begin with https:// (egress.allow_http would allow http)"},
		"private":         {"allow_hosts: [127.0.0.1]", "allow_hosts: [a.example]", "line 4: servers.here.url: 127.0.0.1 is not a public address (egress.allow_hosts, egress.allow_prefixes or egress.allow_private would allow it)"},
		"no sources":      {"sources:\n  s:\n    path: /s\n    secret_env: EDGE_TEST_SECRET\n", "", "sources: there is none, so nothing can be received; see docs/edge.md for an example"},
		"no path":         {"    path: /s\n", "", "line 10: sources.s.path: it is required, for example /hooks/s"},
		"bad path":        {"path: /s", "path: hooks/", `line 11: sources.s.path: "hooks/" is not a plain path such as /hooks/s`},
		"same path":       {"routes:", "  z: {path: /s, secret_env: EDGE_TEST_SECRET}\nroutes:", "line 13: sources.z.path: /s is the path of source s too"},
		"no keys":         {"    secret_env: EDGE_TEST_SECRET\n", "", "line 10: sources.s: it has nothing to verify with; give secret_env, secret_file, public_keys or jwks"},
		"unset":           {"    secret_env: EDGE_TEST_SECRET\n", "    secret_env: [EDGE_TEST_SECRET, EDGE_UNSET]\n", "line 12: sources.s.secret_env[1]: the variable EDGE_UNSET is not set; export it, or use secret_file"},
		"empty":           {"    secret_env: EDGE_TEST_SECRET\n", "    secret_env: EDGE_EMPTY\n", "line 12: sources.s.secret_env: the variable EDGE_EMPTY is not set; export it, or use secret_file"},
		"bad secret":      {"    secret_env: EDGE_TEST_SECRET\n", "    secret_env: EDGE_BAD_SECRET\n", "line 12: sources.s.secret_env: malformed signing secret: it holds 3 bytes, 24 to 64 are allowed"},
		"secret in file":  {"    secret_env: EDGE_TEST_SECRET\n", "    secret_env: " + secret + "\n", "line 12: sources.s.secret_env: the variable that is named here (which does not look like one: if it is the secret itself, move it there) is not set; export it, or use secret_file"},
		"empty file":      {"    secret_env: EDGE_TEST_SECRET\n", "    secret_file: " + empty + "\n", "line 12: sources.s.secret_file: " + empty + " is empty"},
		"bad key":         {"    secret_env: EDGE_TEST_SECRET\n", "    public_keys: whpk_AAAA\n", "line 12: sources.s.public_keys: malformed key: it holds 3 bytes, a public key has 32"},
		"size":            {"path: /s", "path: /s\n    max_body: 1MB", `line 12: "1MB" is not a size such as 512KiB, 10MiB or 2GiB`},
		"large":           {"path: /s", "path: /s\n    max_body: 1GiB", "line 12: sources.s.max_body: at most 64MiB; events point to results"},
		"issuer":          {"path: /s", "path: /s\n    issuer: x", "line 10: sources.s: JWTs are refused without an audience; give the address that the sender was given"},
		"allow_from":      {"path: /s", "path: /s\n    allow_from: [1.2.3.4, nobody]", `line 12: sources.s.allow_from[1]: "nobody" is not a prefix such as 10.1.0.0/16`},
		"route name":      {"name: r\n", "name: a/b\n", "line 14: routes[0].name: a name has letters, digits, - and _ only, at most 64"},
		"no route name":   {"- name: r\n    source", "- source", "line 14: routes[0].name: it is required: actions under way are known by it"},
		"same route":      {"routes:", "routes:\n  - {name: r, actions: [{exec: {command: [/bin/true]}}]}", "line 15: routes[1].name: there is another route r; names must differ"},
		"route source":    {"source: s", "source: [s, t*]", `line 15: routes[0].source[1]: "t*" is not among the sources: s`},
		"type":            {"type: batch.*", `type: "[a"`, `line 16: routes[0].type: "[a" is not a type or pattern such as batch.*`},
		"when":            {"when: data.n > 1", "when: dta.n > 1", "line 17: routes[0].when: unknown name dta (1:1); names are source, id, type, timestamp, data, metadata, event, body, received"},
		"when no bool":    {"when: data.n > 1", "when: id", "line 17: routes[0].when: expected bool, but got string; names are source, id, type, timestamp, data, metadata, event, body, received"},
		"now":             {"when: data.n > 1", "when: now() > received", "line 17: routes[0].when: unknown name now (1:1); names are source, id, type, timestamp, data, metadata, event, body, received"},
		"no actions":      {"routes:", "routes:\n  - {name: none}", "line 14: routes[0].actions: there is none; give at least one"},
		"no kind":         {"{name: e, exec: {command: [/bin/true]}}", "{name: e}", "line 20: routes[0].actions[1]: it has 0 kinds; give exactly one of exec, fetch, http, job, notify, sql"},
		"two kinds":       {"{name: e, exec: {command: [/bin/true]}}", "{name: e, exec: {command: [/bin/true]}, fetch: {folder: /tmp}}", "line 20: routes[0].actions[1]: it has 2 kinds; give exactly one of exec, fetch, http, job, notify, sql"},
		"same action":     {"{name: e,", "{name: h,", "line 20: routes[0].actions[1].name: the route has another action h; names must differ"},
		"timeout":         {"{name: e,", "{name: e, timeout: 25h,", "line 20: routes[0].actions[1].timeout: 25h is not between 1ms and 24h"},
		"http unsigned":   {`, secret_env: EDGE_TEST_SECRET}}`, `}}`, "line 19: routes[0].actions[0].http: the next hop has no secret to verify with; give secret_env or secret_file, or set unsigned: true"},
		"http header":     {`, secret_env: EDGE_TEST_SECRET}}`, `, secret_env: EDGE_TEST_SECRET, headers: {webhook-id: x}}}`, "line 19: routes[0].actions[0].http.headers.webhook-id: webhook-id is set by the edge itself"},
		"header lines":    {`, secret_env: EDGE_TEST_SECRET}}`, `, secret_env: EDGE_TEST_SECRET, headers: {x: "a\nb"}}}`, "line 19: routes[0].actions[0].http.headers.x: it holds a line break or another control character, which no header may"},
		"header variable": {`, secret_env: EDGE_TEST_SECRET}}`, `, secret_env: EDGE_TEST_SECRET, headers_env: {x: EDGE_LINES}}}`, "line 19: routes[0].actions[0].http.headers_env.x: it holds a line break or another control character, which no header may"},
		"header unset":    {`, secret_env: EDGE_TEST_SECRET}}`, `, secret_env: EDGE_TEST_SECRET, headers_env: {x: EDGE_UNSET}}}`, "line 19: routes[0].actions[0].http.headers_env.x: the variable EDGE_UNSET is not set; export it"},
		"header twice":    {`, secret_env: EDGE_TEST_SECRET}}`, `, secret_env: EDGE_TEST_SECRET, headers: {x-a: b}, headers_env: {X-A: EDGE_KEY}}}`, "line 19: routes[0].actions[0].http.headers_env.X-A: the header is set twice; keep one of them"},
		"key lines":       {"api_key_env: EDGE_KEY", "api_key_env: EDGE_LINES", "line 4: servers.here.api_key_env: it holds a line break or another control character, which no header may"},
		"proxy unset":     {"egress: {", "egress: {proxy_env: EDGE_UNSET, ", "line 2: egress.proxy_env: the variable EDGE_UNSET is not set; export it"},
		"listen port":     {"listen: 127.0.0.1:0", "listen: 127.0.0.1:70000", `line 1: listen: "127.0.0.1:70000" is not HOST:PORT, for example 127.0.0.1:8090`},
		"same listen":     {"listen: 127.0.0.1:0", "listen: 127.0.0.1:8091", "line 1: listen: 127.0.0.1:8091 is admin.listen too; choose another address for one of them"},
		"double in body":  {"body: {input: x}", "body: {input: x, input: y}", "line 22: routes[0].actions[3].job.body: line 22: input is there twice; keep one of them"},
		"template":        {`, secret_env: EDGE_TEST_SECRET}}`, `, secret_env: EDGE_TEST_SECRET, headers: {x: "{{ data.x"}}}`, `line 19: routes[0].actions[0].http.headers.x: a {{ has no }}; to print {{ write {{ "{{" }}`},
		"exec":            {"command: [/bin/true]", "command: [/bin/nothing-here]", "line 20: routes[0].actions[1].exec.command[0]: /bin/nothing-here can't be run: stat /bin/nothing-here: no such file or directory"},
		"exec by event":   {"command: [/bin/true]", `command: ["/bin/{{ id }}"]`, "line 20: routes[0].actions[1].exec.command[0]: which program is run must not depend on the event"},
		"sql database":    {"database: main", "database: other", `line 21: routes[0].actions[2].sql.database: "other" is not among databases; add it there, with url or url_env`},
		"sql injection":   {"sql: SELECT 1", `sql: "SELECT '{{ id }}'"`, "line 21: routes[0].actions[2].sql.statements[0].sql: values of an event don't belong in the text of a statement; write a placeholder ($1) and put the expression into args"},
		"sql args":        {"sql: SELECT 1", "sql: SELECT 1, args: [data.x, dta]", "line 21: routes[0].actions[2].sql.statements[0].args[1]: unknown name dta (1:1); names are source, id, type, timestamp, data, metadata, event, body, received"},
		"database":        {`url: "sqlite:x.db"`, "url: mysql://x", "line 6: databases.main.url: it is neither postgres://… nor sqlite:PATH"},
		"database secret": {`url: "sqlite:x.db"`, `url: "postgres://me:hush@h/db"`, "line 6: databases.main.url: it holds a password; put the whole address into a variable and name it in url_env"},
		"job server":      {"server: here", "server: there", `line 22: routes[0].actions[3].job.server: "there" is not among servers; add it there, with url and api_key_env`},
		"job kind":        {"kind: interaction", "kind: thing", `line 22: routes[0].actions[3].job.kind: "thing" is none of interaction, batch, embeddings, video`},
		"job model":       {"kind: interaction, model: m", "kind: batch", "line 22: routes[0].actions[3].job.model: it is required, for example gemini-3.6-flash"},
		"job models":      {"body: {input: x}", "body: {input: x, model: n}", "line 22: routes[0].actions[3].job.model: the body names a model too; keep one of them"},
		"job body":        {", body: {input: x}", "", "line 22: routes[0].actions[3].job.body: it is required: the request as the API documents it, with {{ … }} where the event goes in"},
		"job template":    {"body: {input: x}", `body: {input: "{{ nope }}"}`, "line 22: routes[0].actions[3].job.body: line 22: in {{ nope }}: unknown name nope (1:1); names are source, id, type, timestamp, data, metadata, event, body, received"},
		"notify":          {"slack_env: EDGE_CHAT", "slack_env: EDGE_CHAT, mail: m", "line 23: routes[0].actions[4].notify: it has 2 receivers; give exactly one of slack_env, teams_env, discord_env (or _file), mail"},
		"mail":            {"slack_env: EDGE_CHAT", "mail: other, to: b@example.com", `line 23: routes[0].actions[4].notify.mail: "other" is not among mail; add it there, with server and from`},
		"mail to":         {"slack_env: EDGE_CHAT", "mail: m, to: [b]", `line 23: routes[0].actions[4].notify.to: "b" is not an address such as ops@example.com`},
		"mail server":     {`server: "127.0.0.1:25"`, "server: smtp", `line 8: mail.m.server: "smtp" is not HOST:PORT, for example smtp.example.com:587`},
		"fetch folder":    {"folder: /tmp", "folder: /nowhere/at/all", "line 24: routes[0].actions[5].fetch.folder: /nowhere/at/all is not a folder; make it"},
		"fetch url":       {"folder: /tmp", "folder: /tmp, url: 'a b'", "line 24: routes[0].actions[5].fetch.url: unexpected token Identifier(\"b\") (1:3); names are source, id, type, timestamp, data, metadata, event, body, received"},
		"fetch nowhere":   {"folder: /tmp", "max_bytes: 1", "line 24: routes[0].actions[5].fetch: give exactly one of folder and bucket: where the files go"},
		"fetch twice":     {"folder: /tmp", "folder: /tmp, bucket: kept", "line 24: routes[0].actions[5].fetch: give exactly one of folder and bucket: where the files go"},
		"fetch bucket":    {"bucket: kept", "bucket: other", `line 25: routes[0].actions[6].fetch.bucket: "other" is not among buckets; add it there, with url, bucket and access_key_id_env`},
		"fetch too much":  {"bucket: kept", "bucket: kept, max_bytes: 1TiB", "line 25: routes[0].actions[6].fetch.max_bytes: at most 78GiB go into a bucket"},
		"bucket URL":      {`url: "http://127.0.0.1:1", bucket`, `url: "http://127.0.0.1:1/results", bucket`, "line 27: buckets.kept.url: it is the store's address alone, such as https://s3.eu-central-1.amazonaws.com; the bucket's name belongs into bucket"},
		"bucket no URL":   {`url: "http://127.0.0.1:1", bucket`, "bucket", "line 27: buckets.kept.url: it is required, for example https://example.com/webhook"},
		"bucket private":  {`url: "http://127.0.0.1:1", bucket`, `url: "http://127.0.0.2:1", bucket`, "line 27: buckets.kept.url: 127.0.0.2 is not a public address (egress.allow_hosts, egress.allow_prefixes or egress.allow_private would allow it)"},
		"bucket egress":   {"bucket: results,", "bucket: results, egress: {allow_private: true},", "line 27: buckets.kept.url: it must begin with https:// (buckets.kept.egress.allow_http would allow http)"},
		"bucket name":     {"bucket: results,", "bucket: a/b,", `line 27: buckets.kept.bucket: "a/b" is not the name of a bucket`},
		"no bucket name":  {"bucket: results,", "", "line 27: buckets.kept.bucket: it is required: the bucket's name at the store"},
		"bucket key":      {"access_key_id_env: EDGE_S3_ID, ", "", "line 27: buckets.kept: it has no access key; give access_key_id_env and secret_access_key_env, or _file"},
		"bucket secret":   {"secret_access_key_env: EDGE_S3_SECRET", "secret_access_key_env: EDGE_UNSET", "line 27: buckets.kept.secret_access_key_env: the variable EDGE_UNSET is not set; export it, or use secret_access_key_file"},
		"bucket token":    {"bucket: results,", "bucket: results, session_token_file: " + empty + ",", "line 27: buckets.kept.session_token_file: " + empty + " is empty"},
		"path style":      {"bucket: results,", "bucket: results, path_style: maybe,", `line 27: buckets.kept.path_style: "maybe" is none of auto, true, false`},
		"alias bomb":      {"listen: 127.0.0.1:0", "x: &a [l,l,l,l,l,l,l,l,l]\ny: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nz: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nw: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]", "line 1: x: there is no such key; here are admin, buckets, data, databases, egress, grace, keep, keep_dead, listen, log, mail, max_running, reconcile, retry, routes, servers, sources, timeout, tls, trusted_proxies"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, x.old) {
				t.Fatalf("%q is not in the file", x.old)
			}
			got := check(t, strings.Replace(good, x.old, x.new, 1))
			if len(got) == 0 || got[0] != x.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), x.want)
			}
			if strings.Contains(strings.Join(got, ""), "hush") || strings.Contains(strings.Join(got, ""), "C2FVsBQIhrsc") {
				t.Errorf("a secret is told: %v", got)
			}
		})
	}
}

// TestSecretsEndTheirLine: a line break after a secret, as files and what reads them
// often have it, is none of it.
func TestSecretsEndTheirLine(t *testing.T) {
	t.Setenv("EDGE_TEST_SECRET", secret+"\n")
	t.Setenv("EDGE_KEY", "rbk_x\r\n")
	t.Setenv("EDGE_CHAT", "http://127.0.0.1:1/services/hush\n")
	t.Setenv("EDGE_S3_ID", "AKIA\n")
	t.Setenv("EDGE_S3_SECRET", "hush\n")
	s, err := prepare([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if key := s.actions["r/j"].doer.(*job).server.key; key != "rbk_x" {
		t.Errorf("got %q", key)
	}
}

// TestAllProblemsAtOnce: who writes a file wants to mend it once.
func TestAllProblemsAtOnce(t *testing.T) {
	want := []string{
		"line 1: listen: \"x\" is not HOST:PORT, for example 127.0.0.1:8090",
		"line 2: max_running: -1 is not between 1 and 10000",
		"line 4: sources.a: it has nothing to verify with; give secret_env, secret_file, public_keys or jwks",
		"line 4: sources.a.path: it is required, for example /hooks/a",
		"line 7: routes[0].source: \"b\" is not among the sources: a",
		"line 7: routes[0].actions: there is none; give at least one",
	}
	got := check(t, "listen: x\nmax_running: -1\nsources:\n  a: {}\nroutes:\n  -\n    {name: r, source: b}\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFitting(t *testing.T) {
	s, m := time.Second, time.Minute
	for _, x := range []struct {
		schedule []time.Duration
		window   time.Duration
		want     []time.Duration
	}{
		{[]time.Duration{s, 2 * s}, 7 * s, []time.Duration{s, 2 * s, 2 * s, 2 * s}},
		{[]time.Duration{m}, s, nil},
		{[]time.Duration{s}, s, []time.Duration{s}},
	} {
		if diff := cmp.Diff(x.want, fitting(x.schedule, x.window)); diff != "" {
			t.Error(diff)
		}
	}
	if n := len(fitting([]time.Duration{time.Millisecond}, 24*time.Hour)); n != maxAttempts-1 {
		t.Errorf("%d waits", n)
	}
}

// TestBucketAddress: where an object goes, by region and path_style.
func TestBucketAddress(t *testing.T) {
	t.Setenv("EDGE_S3_ID", "AKIA")
	t.Setenv("EDGE_S3_SECRET", "hush")
	for set, want := range map[string]string{
		"url: https://s3.eu-central-1.amazonaws.com":                               "https://results.s3.dualstack.eu-central-1.amazonaws.com/k eu-central-1",
		"url: https://s3.amazonaws.com, region: eu-west-1":                         "https://results.s3.dualstack.eu-west-1.amazonaws.com/k eu-west-1",
		"url: https://storage.googleapis.com, region: auto":                        "https://results.storage.googleapis.com/k auto",
		"url: https://abc.r2.cloudflarestorage.com/, region: auto":                 "https://abc.r2.cloudflarestorage.com/results/k auto",
		"url: https://minio.example.com:9000":                                      "https://minio.example.com:9000/results/k us-east-1",
		"url: https://minio.example.com:9000, path_style: false":                   "https://results.minio.example.com:9000/k us-east-1",
		"url: https://s3.eu-central-1.amazonaws.com, path_style: true":             "https://s3.dualstack.eu-central-1.amazonaws.com/results/k eu-central-1",
		"url: http://127.0.0.1:9, egress: {allow_http: true, allow_private: true}": "http://127.0.0.1:9/results/k us-east-1",
	} {
		f := parse([]byte("buckets: {kept: {bucket: results, access_key_id_env: EDGE_S3_ID, secret_access_key_env: EDGE_S3_SECRET, " + set + "}}"))
		s := &setup{}
		b := f.buckets(s, f.client(s, "egress", &f.Egress))["kept"]
		if len(f.problems) > 0 {
			t.Errorf("%s: %v", set, f.problems)
			continue
		}
		u, err := b.store.PresignedPutObject(t.Context(), "results", "k", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		_, region, _ := strings.Cut(u.Query().Get("X-Amz-Credential"), "/")
		region = strings.Split(region, "/")[1]
		if got := u.Scheme + "://" + u.Host + u.Path + " " + region; got != want {
			t.Errorf("%s: got %s, want %s", set, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "17": 17, "1KiB": 1024, "10 MiB": 10 << 20, "2Gi": 2 << 30, "7B": 7, "-1": -1, "9999999TiB": -1, "1MB": -1, "x": -1, "[1]": -1} {
		f := parse([]byte("sources: {s: {max_body: " + text + "}}"))
		got := f.Sources["s"].MaxBody
		if len(f.problems) > 0 {
			got = -1
		}
		if got != want {
			t.Errorf("%s is %d, want %d", text, got, want)
		}
	}
}

// FuzzConfig reads anything at all as a configuration.
func FuzzConfig(f *testing.F) {
	for name, value := range map[string]string{"EDGE_TEST_SECRET": secret, "EDGE_KEY": "rbk_x", "EDGE_CHAT": "http://127.0.0.1:1/x", "EDGE_S3_ID": "AKIA", "EDGE_S3_SECRET": "x"} {
		f.Setenv(name, value)
	}
	f.Add([]byte(good))
	f.Add([]byte(base))
	f.Add([]byte("a: &a [*a]\nsources: *a"))
	f.Add([]byte("<<: {listen: x}\nroutes: [{actions: [{job: {body: {\"{{\": {a: b}}}}]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Not fetched, opened or run: reading has no effect. A folder or program that
		// is named may be looked for.
		s, err := prepare(data)
		if (s == nil) == (err == nil) {
			t.Errorf("got %v, %v", s, err)
		}
		if s != nil {
			s.close()
		}
	})
}
