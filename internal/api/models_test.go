package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"ringback.dev/internal/genai"
)

func TestModels(t *testing.T) {
	s := newServer(t)
	type page struct {
		Models []genai.Model
		Next   string `json:"nextPageToken"`
	}
	get := func(query string) (p page) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.do("GET", "/v1beta/models"+query, "").ok().body), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	all := get("")
	if len(all.Models) < 4 || all.Next != "" {
		t.Fatalf("got %+v", all)
	}
	var names, paged []string
	for _, m := range all.Models {
		names = append(names, m.Name)
		if m.Name == "" || !slices.Contains(m.SupportedGenerationMethods, "generateContent") {
			t.Errorf("a model that can't be used: %+v", m)
		}
	}
	if !slices.Contains(names, "models/org/model") || slices.Contains(names, "models/gemini-*") {
		t.Errorf("names: %v", names)
	}
	for token, n := "", 0; n < 20; n++ {
		p := get("?pageSize=2&pageToken=" + token)
		for _, m := range p.Models {
			paged = append(paged, m.Name)
		}
		if token = p.Next; token == "" {
			break
		}
	}
	if !slices.Equal(names, paged) {
		t.Errorf("in pages %v, at once %v", paged, names)
	}
	s.do("GET", "/v1/models?pageSize=x", "").refusedClassic(400, "INVALID_ARGUMENT", "page")
	s.do("GET", "/v1/models?pageToken=%25", "").refusedClassic(400, "INVALID_ARGUMENT", "page")

	s.do("GET", "/v1/models/org/model", "").golden("model")
	if got := s.do("GET", "/v1/models/gemini-new", "").ok().field("name"); got != "models/gemini-new" {
		t.Errorf("a model behind a pattern: got %q", got)
	}
	s.do("GET", "/v1/models/unheard-of", "").refusedClassic(404, "NOT_FOUND", "configured are gemini-*")
}

const hello = `{"contents":[{"parts":[{"text":"say hello"}]}]}`

func TestGenerateContent(t *testing.T) {
	s := newServer(t)
	s.do("POST", "/v1/models/org/model:generateContent", hello).golden("generate")
	s.do("POST", "/v1/models/gemini-x:generateContent", `{"contents":[{"parts":[{"text":"call f"}]}],
		"tools":[{"function_declarations":[{"name":"f","parameters":{"type":"OBJECT","properties":{"my_key":{"type":"STRING"}}}}]}]}`).golden("generate_call")
	for body, hint := range map[string]string{
		`{}`:                             "contents: it is required",
		`{"contents":[]}`:                "contents: it is required",
		`{"contents":[{"role":"user"}]}`: "contents[0].parts: it is required",
		`{"contents":"hi"}`:              "contents: expected a list, got string",
		`{"contents":[{"parts":[{"text":"a"}]}],"generation_config":{"temperature":"x"}}`: "generationConfig.temperature: expected a number",
	} {
		for _, verb := range []string{"generateContent", "streamGenerateContent"} {
			s.do("POST", "/v1/models/gemini-x:"+verb, body).refusedClassic(400, "INVALID_ARGUMENT", hint)
		}
	}
}

func TestStreamGenerateContent(t *testing.T) {
	s := newServer(t)
	join := func(raw []string) (text string, last genai.GenerateContentResponse) {
		t.Helper()
		for _, r := range raw {
			last = genai.GenerateContentResponse{}
			if err := json.Unmarshal([]byte(r), &last); err != nil {
				t.Fatalf("%v: %s", err, r)
			}
			text += *last.Candidates[0].Content.Parts[0].Text
		}
		return text, last
	}
	check := func(raw []string) {
		t.Helper()
		text, last := join(raw)
		if len(raw) < 2 || text != "Hello there" || last.Candidates[0].FinishReason != "STOP" || last.UsageMetadata == nil || last.UsageMetadata.TotalTokenCount == 0 {
			t.Errorf("got %q in %d chunks, the last being %+v", text, len(raw), last)
		}
	}

	// The grammar of §8.4: data lines and blank lines, nothing else, and no sentinel.
	sse := s.do("POST", "/v1beta/models/gemini-x:streamGenerateContent?alt=sse", hello)
	if sse.status != http.StatusOK || sse.header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %d %s", sse.status, sse.header.Get("Content-Type"))
	}
	var chunks []string
	events := strings.Split(strings.ReplaceAll(sse.body, "\r\n", "\n"), "\n\n")
	if events[len(events)-1] != "" {
		t.Errorf("no blank line at the end: %q", sse.body)
	}
	for _, e := range events[:len(events)-1] {
		data, ok := strings.CutPrefix(e, "data: ")
		if !ok || strings.Contains(data, "\n") {
			t.Fatalf("not one data line: %q", e)
		}
		chunks = append(chunks, data)
	}
	check(chunks)

	array := s.do("POST", "/v1beta/models/gemini-x:streamGenerateContent", hello)
	var elements []json.RawMessage
	if err := json.Unmarshal([]byte(array.body), &elements); err != nil || array.header.Get("Content-Type") != "application/json" {
		t.Fatalf("%v: %s %s", err, array.header.Get("Content-Type"), array.body)
	}
	chunks = nil
	for _, e := range elements {
		chunks = append(chunks, string(e))
	}
	check(chunks)

	// An error before the first chunk is an ordinary one.
	for _, query := range []string{"", "?alt=sse"} {
		s.do("POST", "/v1/models/fail:streamGenerateContent"+query, hello).refusedClassic(500, "INTERNAL", "not reachable")
		s.do("POST", "/v1/models/unheard-of:streamGenerateContent"+query, hello).refusedClassic(404, "NOT_FOUND", "unheard-of")
	}
}

func TestCountTokens(t *testing.T) {
	s := newServer(t)
	const want = `{"totalTokens":3,"promptTokensDetails":[{"modality":"TEXT","tokenCount":3}]}`
	for _, body := range []string{hello, `{"generateContentRequest":{"model":"models/gemini-x",` + hello[1:] + `}`, `{"generate_content_request":` + hello + `}`} {
		if got := s.do("POST", "/v1/models/gemini-x:countTokens", body).ok().body; got != want {
			t.Errorf("%s: got %s, want %s", body, got, want)
		}
	}
	s.do("POST", "/v1/models/gemini-x:countTokens", `{}`).refusedClassic(400, "INVALID_ARGUMENT", "contents")
	s.do("POST", "/v1/models/unheard-of:countTokens", hello).refusedClassic(404, "NOT_FOUND", "unheard-of")
}
