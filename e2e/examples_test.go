package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestGoExamples builds the programs that the Go SDK ships as its examples,
// straight from the SDK's module, and runs them. Not a byte of them is changed:
// the server and the key come from the environment. Those are left out that
// want another Google service or a kind of job that is not served, or that
// only repeat what another one does.
func TestGoExamples(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/genai").Output()
	if err != nil {
		t.Fatal(err)
	}
	examples := filepath.Join(strings.TrimSpace(string(out)), "examples")
	vars := append(env(dev(t)), "GOOGLE_GENAI_USE_VERTEXAI=", "GOOGLE_GENAI_USE_ENTERPRISE=", "GOOGLE_GENAI_API_VERSION=")
	for _, c := range []struct{ file, want string }{
		{"interactions/stateful", `(?s)turn 1.*turn 3`},
		{"interactions/stateless", `(?s)turn 1.*turn 3`},
		{"interactions/structured_output_json", `Output: \["emulated"\]`},
		{"interactions/tool_call_with_functions", `Status: requires_action\nFunction Call: schedule_meeting\nArguments: map\[attendees:\[Peter Amir\]`},
		{"models/generate_content/text_stream", `\[ringback emulator\]`},
		{"models/generate_content/function_declaration_json_schema", `"finishReason": "STOP"`},
		{"models/generate_content/function_declaration_schema", `"finishReason": "STOP"`},
		{"chats/chat", `turn 3`},
		{"models/generate_videos/videos", `Video file http\S+ downloaded. Data size: [1-9]`}, // It sleeps for 20 s between two looks.
	} {
		t.Run(c.file, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "example")
			runner(t, ".", nil, "go", "build", "-ldflags=-s -w", "-o", program, filepath.Join(examples, filepath.FromSlash(c.file)+".go"))
			if out := runner(t, ".", vars, program); !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("it does not print %s:\n%s", c.want, out)
			}
		})
	}
}
