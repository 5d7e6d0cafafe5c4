package ringback_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/emulator"
	"ringback.dev/internal/genai"
)

// These tests hold the documents to the program: what they show compiles, loads,
// and names commands, flags, targets and files that exist.

// block is a fenced piece of a document.
type block struct {
	file string
	line int // Of its first line.
	lang string
	text string
}

func (b block) where() string { return fmt.Sprintf("%s:%d", b.file, b.line) }

// document is a Markdown file, its fenced blocks apart from the rest.
type document struct {
	file   string
	blocks []block
	prose  []block // One for each other line.
}

func parseDocument(file, text string) document {
	d := document{file: file}
	var open *block
	n := 0
	for line := range strings.Lines(text) {
		n++
		lang, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && open != nil:
			d.blocks = append(d.blocks, *open)
			open = nil
		case fence:
			open = &block{file: file, line: n + 1, lang: lang}
		case open != nil:
			open.text += line
		default:
			d.prose = append(d.prose, block{file: file, line: n, text: line})
		}
	}
	return d
}

func documents(t *testing.T) []document {
	t.Helper()
	files := []string{"README.md", "CHANGELOG.md"}
	err := filepath.WalkDir("docs", func(name string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(name, ".md") {
			files = append(files, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []document
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, parseDocument(f, string(text)))
	}
	return all
}

// blocksIn are all fenced blocks of a language; none at all is an error.
func blocksIn(t *testing.T, lang string) []block {
	t.Helper()
	var found []block
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if b.lang == lang {
				found = append(found, b)
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no document has a %s block", lang)
	}
	return found
}

// compile compiles Go sources as packages of this module, without writing into
// its tree.
func compile(t *testing.T, sources ...string) ([]byte, error) {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{make(map[string]string)}
	args := []string{"build", "-o", os.DevNull, "-overlay", filepath.Join(dir, "overlay.json")}
	for i, s := range sources {
		file := filepath.Join(dir, fmt.Sprintf("sample%d.go", i))
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		pkg := fmt.Sprintf("docsample%d", i)
		overlay.Replace[filepath.Join(root, pkg, "sample.go")] = file
		args = append(args, "./"+pkg)
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return exec.Command("go", args...).CombinedOutput()
}

func TestGoInDocumentsCompiles(t *testing.T) {
	var sources []string
	for _, b := range blocksIn(t, "go") {
		sources = append(sources, fmt.Sprintf("//line %s\n%s", b.where(), b.text))
	}
	if out, err := compile(t, sources...); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := compile(t, "package main\n\nimport \"ringback.dev/webhook\"\n\nfunc main() { webhook.NoSuchThing() }\n"); err == nil {
		t.Error("a sample that does not compile passes")
	}
}

// program is the built command line.
type program struct {
	path  string
	help  map[string]string // By command, such as "webhooks create".
	flags map[string]bool   // Of any command.
}

func buildProgram(t *testing.T) *program {
	t.Helper()
	p := &program{path: filepath.Join(t.TempDir(), "ringback"), help: make(map[string]string), flags: make(map[string]bool)}
	if out, err := exec.Command("go", "build", "-o", p.path, "./cmd/ringback").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	top := p.run(t, "--help")
	_, list, found := strings.Cut(top, "\nCommands:\n")
	if !found {
		t.Fatalf("the help lists no commands:\n%s", top)
	}
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+(?: [a-z-]+){0,2})  +\S`).FindAllStringSubmatch(list, -1) {
		p.help[m[1]] = p.run(t, append(strings.Fields(m[1]), "--help")...)
		for _, f := range flagPattern.FindAllString(p.help[m[1]], -1) {
			p.flags[f] = true
		}
	}
	if len(p.help) < 7 {
		t.Fatalf("only %d commands were found in:\n%s", len(p.help), top)
	}
	return p
}

func (p *program) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(p.path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ringback %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

var (
	flagPattern   = regexp.MustCompile(`--[a-z][a-z0-9-]*[a-z0-9]`)
	inlineCode    = regexp.MustCompile("`[^`]+`")
	commandLine   = regexp.MustCompile(`(?:^|[\s;&|(])(?:bin/|\./)?ringback((?: +[^\s;&|#]+)+)`)
	makeTarget    = regexp.MustCompile(`(?:^|[\s;&|(])make ([a-z][a-z-]*)`)
	markdownLink  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	pathInTheTree = regexp.MustCompile(`^(?:internal|cmd|docs|e2e|webhook|scripts)/[\w./-]+$`)
)

// wrong says what a command line, without its first word, gets wrong.
func (p *program) wrong(args []string) error {
	if strings.HasPrefix(args[0], "-") {
		return nil // Flags of the program as a whole.
	}
	// The words of a command, as many as there are below a group.
	name, words := args[0], 1
	isGroup := func() bool {
		for known := range p.help {
			if strings.HasPrefix(known, name+" ") {
				return true
			}
		}
		return false
	}
	for isGroup() && words < len(args) && !strings.HasPrefix(args[words], "-") {
		name += " " + args[words]
		words++
	}
	help, ok := p.help[name]
	if !ok && p.help[name+" run"] != "" {
		help, ok = p.help[name+" run"], true // The word run may be left out.
	}
	switch {
	case !ok && isGroup() && words == len(args):
		return nil // The group as a whole, in prose.
	case !ok:
		return fmt.Errorf("there is no command %q", name)
	}
	for _, a := range args[words:] {
		flag, _, _ := strings.Cut(a, "=")
		long, short := strings.HasPrefix(flag, "--"), len(flag) == 2 && flag[0] == '-' && flag != "--"
		if long && !slices.Contains(flagPattern.FindAllString(help, -1), flag) || short && !strings.Contains(help, " "+flag+", ") {
			return fmt.Errorf("%q has no flag %s", name, flag)
		}
	}
	return nil
}

// TestCommandsInDocumentsExist looks at every piece of code, in blocks and in
// lines of text.
func TestCommandsInDocumentsExist(t *testing.T) {
	p := buildProgram(t)
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	lines, targets := 0, 0
	check := func(at, code string) {
		for _, m := range commandLine.FindAllStringSubmatch(code, -1) {
			lines++
			if err := p.wrong(strings.Fields(m[1])); err != nil {
				t.Errorf("%s: %s: %v", at, strings.TrimSpace(m[0]), err)
			}
		}
		for _, m := range makeTarget.FindAllStringSubmatch(code, -1) {
			targets++
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
				t.Errorf("%s: the Makefile has no target %q", at, m[1])
			}
		}
	}
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if b.lang == "sh" || b.lang == "console" || b.lang == "" {
				for line := range strings.Lines(b.text) {
					check(b.where(), line)
				}
			}
		}
		for _, line := range d.prose {
			for _, code := range inlineCode.FindAllString(line.text, -1) {
				code = strings.Trim(code, "`")
				check(line.where(), code)
				if flag := flagPattern.FindString(code); strings.HasPrefix(code, "--") && !p.flags[flag] {
					t.Errorf("%s: no command has a flag %s", line.where(), flag)
				}
			}
		}
	}
	if lines < 10 || targets < 5 {
		t.Errorf("only %d command lines and %d make targets were found", lines, targets)
	}
	for text, good := range map[string]bool{
		"ringback serve --openai-url http://x": true, "bin/ringback webhooks create http://x -e ping --json": true, "ringback webhooks": true,
		"ringback edge --config x": true, "ringback edge inbox list --state dead": true, "ringback edge inbox": true, "ringback edge --no-such-flag": false, "ringback edge inbox look": false,
		"ringback serves": false, "ringback serve --no-such-flag": false, "ringback webhooks make": false, "a && ringback dev -x": false, "ringback dev --name=x": false,
	} {
		m := commandLine.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("%q is not taken for a command line", text)
		}
		if err := p.wrong(strings.Fields(m[1])); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestYAMLInDocumentsLoads gives each block to the program: one that has rules
// is a scenario, one that has sources the file of an edge, any other a configuration.
func TestYAMLInDocumentsLoads(t *testing.T) {
	p := buildProgram(t)
	load := func(text string) error {
		file := filepath.Join(t.TempDir(), "sample.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"config", "check", "--config", file}
		switch {
		case regexp.MustCompile(`(?m)^rules:`).MatchString(text):
			args[2] = "--scenario"
		case regexp.MustCompile(`(?m)^sources:`).MatchString(text):
			args = []string{"edge", "check", file}
		}
		cmd := exec.Command(p.path, args...)
		cmd.Env = append(cmd.Environ(), edgeVariables(text)...)
		for _, m := range regexp.MustCompile(`api_key_env: *(\w+)`).FindAllStringSubmatch(text, -1) {
			cmd.Env = append(cmd.Env, m[1]+"=x")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return errors.New(string(bytes.TrimSpace(out)))
		}
		return nil
	}
	for _, b := range blocksIn(t, "yaml") {
		if err := load(b.text); err != nil {
			t.Errorf("%s: %v", b.where(), err)
		}
	}
	for _, bad := range []string{"no_such_setting: 1\n", "rules:\n  - {texts: a}\n"} {
		if load(bad) == nil {
			t.Errorf("%q loads", bad)
		}
	}
}

// edgeVariables are those that the file of an edge names, with values that fit.
func edgeVariables(text string) []string {
	var env []string
	for _, m := range regexp.MustCompile(`(?m)^[^#\n]*?\b(\w+)_env: *(\[[^\]]*\]|\{[^}]*\}|\w+)`).FindAllStringSubmatch(text, -1) {
		value := map[string]string{"secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "slack": "https://hooks.slack.com/services/x", "teams": "https://teams.example/x",
			"discord": "https://discord.com/api/webhooks/x", "url": "postgres://db.example/x"}[m[1]]
		if value == "" {
			value = "x"
		}
		for _, name := range regexp.MustCompile(`\b[A-Z][A-Z0-9_]+\b`).FindAllString(m[2], -1) {
			env = append(env, name+"="+value)
		}
	}
	return env
}

const edgeFile = "examples/edge/edge.yaml"

// TestEdgeInDocument holds the sample of docs/edge.md to the example, and the example
// to what its first lines say: it is good, and its event is one of a route's.
func TestEdgeInDocument(t *testing.T) {
	file, err := os.ReadFile(edgeFile)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("docs/edge.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "```yaml\n"+string(file)+"```\n") {
		t.Errorf("the sample of docs/edge.md is not %s", edgeFile)
	}
	p := buildProgram(t)
	for _, source := range []string{"ringback", "gemini"} {
		cmd := exec.Command(p.path, "edge", "check", edgeFile, "--event", "examples/edge/event.json", "--source", source)
		cmd.Env = append(cmd.Environ(), edgeVariables(string(file))...)
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("results: matches")) || !bytes.Contains(out, []byte("to /tmp/batches_abc123.jsonl")) {
			t.Errorf("%v\n%s", err, out)
		}
	}
	kinds := []string{"http:", "exec:", "sql:", "job:", "notify:", "fetch:"}
	for _, kind := range kinds {
		if !strings.Contains(string(file), "        "+kind) {
			t.Errorf("%s shows no action %s", edgeFile, kind)
		}
	}
}

// TestLinksInDocuments follows the links to files, and looks for the files that
// the text names.
func TestLinksInDocuments(t *testing.T) {
	checked := 0
	exists := func(at, name string) {
		checked++
		if _, err := os.Stat(name); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	for _, d := range documents(t) {
		for _, line := range d.prose {
			for _, m := range markdownLink.FindAllStringSubmatch(line.text, -1) {
				if to, _, _ := strings.Cut(m[1], "#"); to != "" && !strings.Contains(to, ":") {
					exists(line.where(), filepath.Join(filepath.Dir(d.file), to))
				}
			}
			for _, code := range inlineCode.FindAllString(line.text, -1) {
				if code = strings.Trim(code, "`"); pathInTheTree.MatchString(code) {
					exists(line.where(), code)
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d links and names were found", checked)
	}
}

const scenarioFile = "internal/backend/emulator/testdata/scenario.yaml"

// TestScenarioInDocument holds the sample of docs/emulator.md to the file, the
// file to what its comments say, and both to the keys that there are.
func TestScenarioInDocument(t *testing.T) {
	file, err := os.ReadFile(scenarioFile)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("docs/emulator.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "```yaml\n"+string(file)+"```\n") {
		t.Errorf("the sample of docs/emulator.md is not %s", scenarioFile)
	}
	keys := yamlKeys(reflect.TypeFor[emulator.Scenario]())
	if len(keys) < 10 {
		t.Fatalf("only the keys %v were found", keys)
	}
	for _, key := range keys {
		if !regexp.MustCompile(`\b` + key + `:`).Match(file) {
			t.Errorf("%s shows no %q", scenarioFile, key)
		}
		if !regexp.MustCompile("`(?:[a-z]+\\.)?" + key + "`").Match(text) {
			t.Errorf("docs/emulator.md does not explain %q", key)
		}
	}
}

// yamlKeys are the keys of a type and of those in it.
func yamlKeys(typ reflect.Type) []string {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for f := range typ.Fields() {
		if key := f.Tag.Get("yaml"); key != "" {
			keys = append(append(keys, key), yamlKeys(f.Type)...)
		}
	}
	return keys
}

func TestScenarioDoesWhatItSays(t *testing.T) {
	scenario, err := emulator.LoadScenario(scenarioFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range scenario.Rules {
		r.Delay = min(r.Delay, time.Millisecond)
	}
	e := emulator.New(scenario)
	ask := func(model, prompt string) (string, string, error) {
		resp, err := e.Generate(context.Background(), &backend.Request{Model: model,
			Body: &genai.GenerateContentRequest{Contents: []genai.Content{{Role: "user", Parts: []genai.Part{genai.TextPart(prompt)}}}}})
		if err != nil {
			return "", "", err
		}
		c := resp.Candidates[0]
		if f := c.Content.Parts[0].FunctionCall; f != nil {
			return f.Name + string(f.Args), c.FinishReason, nil
		}
		return *c.Content.Parts[0].Text, c.FinishReason, nil
	}
	for _, x := range []struct {
		model, prompt, answer, finish string
		kind                          backend.Kind
		wait                          time.Duration
	}{
		{"gemini-3.6-flash", "What is the capital of France?", "The capital of France is Paris.", "STOP", "", 0},
		{"other", "What is the capital of France?", "[ringback emulator]", "STOP", "", 0},
		{"m", "Tell me a long story.", "Once upon a time", "MAX_TOKENS", "", 0},
		{"m", "WEATHER IN PARIS", `get_weather{"days":3,"location":"Paris"}`, "STOP", "", 0},
		{"m", "Please plan my trip.", "I need the weather and the time.", "STOP", "", 0},
		{"broken-1", "hello", "", "", backend.Unavailable, 0},
		{"busy-model", "hello", "", "", backend.RateLimited, 3 * time.Second},
		{"busy-model", "hello", "", "", backend.RateLimited, 3 * time.Second},
		{"busy-model", "hello", "[ringback emulator]", "STOP", "", 0},
		{"m", "a famous actor", "[ringback emulator]", "STOP", "", 0},
	} {
		answer, finish, err := ask(x.model, x.prompt)
		if x.kind != "" {
			if e := backend.AsError(err); err == nil || e.Kind != x.kind || e.RetryAfter != x.wait {
				t.Errorf("%s, %q: got %q, error %v", x.model, x.prompt, answer, err)
			}
			continue
		}
		if err != nil || !strings.HasPrefix(answer, x.answer) || finish != x.finish {
			t.Errorf("%s, %q: got %q, %s, error %v", x.model, x.prompt, answer, finish, err)
		}
	}
	for prompt, made := range map[string]int{"a famous actor": 1, "Tell me a long story.": 2} {
		var out discardVideos
		held, err := e.MakeVideos(context.Background(), &backend.VideoRequest{Model: "m", Prompt: prompt, Count: 2}, &out)
		if err != nil || int(out) != made || held.Filtered != 2-made {
			t.Errorf("%s: %d videos, %+v, %v", prompt, out, held, err)
		}
	}
}

// discardVideos counts videos.
type discardVideos int

func (d *discardVideos) Create(context.Context, string) (io.WriteCloser, error) {
	*d++
	return struct {
		io.Writer
		io.Closer
	}{io.Discard, io.NopCloser(nil)}, nil
}
func (*discardVideos) Note(context.Context, []byte) error { return nil }
func (*discardVideos) Progress(int)                       {}
