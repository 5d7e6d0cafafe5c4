package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The same tests run with each release of an SDK.
func TestJavaScript3(t *testing.T) { javaScript(t, "genai3") }
func TestJavaScript2(t *testing.T) { javaScript(t, "genai2") }

func javaScript(t *testing.T, release string) {
	s := dev(t)
	files := []string{"js/sdk.test.mjs", "js/dynamic.test.mjs", "js/batches.test.mjs", "js/streams.test.mjs"}
	if release == "genai2" {
		files = append(files, "js/videos.test.mjs") // Version 3 refuses these calls on its own side.
	}
	dir := jsFolder(t, release, files...)
	out := runner(t, dir, strict(t, s), node(t), "--test", "--test-reporter=tap")
	count(t, release, out, `(?m)^# pass (\d+)$`, `(?m)^# (?:fail|skipped|cancelled|todo) ([1-9]\d*)$`)
}

// jsFolder makes a folder that holds the files and in which @google/genai is the
// given release, so that sources need not know which one it is.
func jsFolder(t *testing.T, release string, files ...string) string {
	t.Helper()
	modules := filepath.Join(cache(t, "js"), "node_modules")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "node_modules", "@google"), 0o755); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{release: "@google/genai", "standardwebhooks": "standardwebhooks",
		"jose": "jose", "jsonwebtoken": "jsonwebtoken", "jwks-rsa": "jwks-rsa", "svix": "svix"} {
		if err := os.Symlink(filepath.Join(modules, from), filepath.Join(dir, "node_modules", to)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPython3(t *testing.T) { python(t, "python3") }
func TestPython2(t *testing.T) { python(t, "python2") }

func python(t *testing.T, release string) {
	s := dev(t)
	args := []string{"-m", "pytest", "-q", "-p", "no:cacheprovider", "."}
	if release == "python3" {
		args = append(args, "--ignore=test_videos.py") // Version 3 refuses these calls on its own side.
	}
	out := runner(t, "python", strict(t, s), filepath.Join(cache(t, release), "bin", "python"), args...)
	count(t, release, out, `(\d+) passed`, `(\d+) (?:failed|skipped|error|xfailed)`)
}

// strict is the environment of an SDK's tests: beside the server that takes any
// key they get one that does not.
func strict(t *testing.T, s *server) []string {
	t.Helper()
	return append(env(s), "RINGBACK_STRICT_URL="+start(t, "serve", "--emulator").URL)
}

func env(s *server) []string {
	return []string{"RINGBACK_URL=" + s.URL, "GOOGLE_GEMINI_BASE_URL=" + s.URL, "GEMINI_API_KEY=any", "GOOGLE_API_KEY=", "PYTHONDONTWRITEBYTECODE=1"}
}

// count reads a runner's closing line: some must have passed, none may have
// failed or been skipped.
func count(t *testing.T, name, out, passed, bad string) {
	t.Helper()
	m := regexp.MustCompile(passed).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("%s ran no test:\n%s", name, out)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil || n == 0 {
		t.Fatalf("%s ran no test:\n%s", name, out)
	}
	if b := regexp.MustCompile(bad).FindString(out); b != "" {
		t.Fatalf("%s: %s\n%s", name, b, out)
	}
	fmt.Printf("e2e %s: %d passed, 0 failed\n", name, n)
}

// TestSamples runs the samples of Google's documents. They are finished programs
// that take the server and the key from the environment; each prints what its
// document says, and ends with 0.
func TestSamples(t *testing.T) {
	s := dev(t)
	hook := receive(t)
	vars := append(env(s), "CALLBACK="+hook.URI, "RINGBACK_BIN="+binary)
	ran := 0
	sample := func(name, want, dir, program string, args ...string) {
		t.Run(name, func(t *testing.T) {
			if out := runner(t, dir, vars, program, args...); !strings.Contains(out, want) {
				t.Errorf("it does not print %q:\n%s", want, out)
			}
		})
		ran++
	}
	for _, c := range []struct{ file, want string }{
		{"webhook_create", "Created webhook: MyBatchWebhook"}, {"webhook_manage", "Deleted"},
		{"interaction_background", "ringback emulator"}, {"interaction_function", "The function get_weather returned"}, {"interaction_turns", "turn 3"},
		{"interaction_stream", "Total tokens: "}, {"interaction_resume", "Resuming from e6\nfour five six seven eight nine ten"},
	} {
		for _, release := range []string{"python3", "python2"} {
			sample(release+"/"+c.file, c.want, "samples/python", filepath.Join(cache(t, release), "bin", "python"), c.file+".py")
		}
		for _, release := range []string{"genai3", "genai2"} {
			file := c.file + ".mjs"
			sample(release+"/"+c.file, c.want, jsFolder(t, release, "samples/js/"+file), node(t), file)
		}
	}
	sample("curl/webhooks", `"secret":"whsec_`, "samples/curl", "sh", "webhooks.sh")
	sample("curl/interactions", "turn 3", "samples/curl", "sh", "interactions.sh")
	sample("curl/stream", "event: done\ndata: [DONE]\n\n", "samples/curl", "sh", "stream.sh")
	fmt.Printf("e2e samples: %d ran\n", ran)
}
