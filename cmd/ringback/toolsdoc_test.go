package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestReceivingToolsDocument runs the commands of docs/receiving-tools.md in their
// order, as a script: with a receiver of the test in place of the reader's, and
// other ports.
func TestReceivingToolsDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/receiving-tools.md")
	if err != nil {
		t.Fatal(err)
	}
	// The development secret is made by whoever needs it first; the receiver verifies
	// with it.
	script := "! exec ringback trigger ping --to http://127.0.0.1:1/\nexaminee RECEIVER JWKS none\n"
	commands := 0
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(block[1]) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "   #")
			line, _, _ = strings.Cut(line, "  #")
			script += translate(t, strings.TrimSpace(line)) + "\n"
			commands++
		}
	}
	if commands < 20 {
		t.Fatalf("only %d commands were found", commands)
	}
	script += "interrupt listener\ngrep 'batch.succeeded' listener\ngrep '[1-9] events? accepted' listener\nstop\n"
	file := filepath.Join(t.TempDir(), "document.txtar")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	params := scriptParams()
	params.Files = []string{file}
	testscript.Run(t, params)
}

// translate makes a line of a script of one of the document.
func translate(t *testing.T, line string) string {
	line = strings.NewReplacer("http://localhost:3000", "$RECEIVER", "127.0.0.1:9876", "$JWKS").Replace(line)
	switch {
	case line == "ringback dev":
		return "server dev --listen 127.0.0.1:0 --data data\nenv RINGBACK_SERVER=$SERVER"
	case strings.HasPrefix(line, "export "):
		return "env " + strings.TrimPrefix(line, "export ")
	case strings.HasPrefix(line, "ringback listen ") && !strings.Contains(line, "--limit"):
		return "begin listener 'waiting for events' " + strings.TrimPrefix(line, "ringback ")
	case strings.Contains(line, "--gemini-key-env"):
		return "exec " + line + " --gemini-url $SERVER"
	case strings.Contains(line, " --effects "):
		return "exec " + line + " --settle 5ms" // It need not take its time here.
	case strings.HasPrefix(line, "ringback "):
		return "exec " + line
	}
	t.Fatalf("what is %q?", line)
	return ""
}
