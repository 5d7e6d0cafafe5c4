package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genai"
)

// TestExecDocument runs the command of docs/exec.md behind a server: asked, as a
// stream, and as a job with a callback.
func TestExecDocument(t *testing.T) {
	py := blocks(t, "../docs/exec.md", "python")
	if len(py) != 1 {
		t.Fatalf("the document has %d programs in Python; this test knows 1", len(py))
	}
	dir := t.TempDir()
	shout, config := filepath.Join(dir, "shout.py"), filepath.Join(dir, "ringback.yaml")
	if err := os.WriteFile(shout, []byte(py[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(`backends:
  shouting: {type: exec, command: [python3, '`+shout+`']}
  failing: {type: exec, command: [sh, -c, 'echo a secret of the command 1>&2; exit 3']}
models:
  - {match: shout, backend: shouting}
  - {match: fail, backend: failing}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, "dev", "--config", config)
	c := goClient(t, s, "any")
	answer := must[*genai.GenerateContentResponse](t)(c.Models.GenerateContent(t.Context(), "shout", genai.Text("is anybody there?"), nil))
	if answer.Text() != "IS ANYBODY THERE? " || answer.UsageMetadata.TotalTokenCount == 0 {
		t.Errorf("unexpected answer %q, %+v", answer.Text(), answer.UsageMetadata)
	}
	var pieces []string
	for chunk, err := range c.Models.GenerateContentStream(t.Context(), "shout", genai.Text("is anybody there?"), nil) {
		pieces = append(pieces, must[*genai.GenerateContentResponse](t)(chunk, err).Text())
	}
	if len(pieces) != 4 || strings.Join(pieces, "") != answer.Text() {
		t.Errorf("the stream says %q", pieces)
	}
	r := receive(t)
	register(t, c, r.URI)
	job := create(t, c, `{"model":"shout","input":"call me","background":true}`)
	r.wait(t, "interaction.completed", *job.ID)
	if got := get(t, c, *job.ID); *got.OutputText != "CALL ME " {
		t.Errorf("the job says %q", *got.OutputText)
	}

	_, err := c.Models.GenerateContent(t.Context(), "fail", genai.Text("hi"), nil)
	var api genai.APIError
	if !errors.As(err, &api) || api.Code != 500 || strings.Contains(api.Message, "secret") {
		t.Errorf("a failing command: %v", err)
	}
}
