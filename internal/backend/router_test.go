package backend_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// named answers with its name and the model that it was asked for.
type named string

func (n named) Generate(_ context.Context, req *backend.Request) (*genai.GenerateContentResponse, error) {
	return &genai.GenerateContentResponse{ModelVersion: string(n) + "/" + req.Model}, nil
}

func TestRouter(t *testing.T) {
	r, err := backend.NewRouter([]backend.Route{
		{Match: "exact", Backend: named("a"), As: "other"}, {Match: "gemini-*", Backend: named("b")}, {Match: "org/name", Backend: named("c")},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]string{"exact": "a/other", "gemini-2": "b/gemini-2", "org/name": "c/org/name"} {
		got, err := r.Generate(t.Context(), &backend.Request{Model: model, Body: &genai.GenerateContentRequest{}})
		if err != nil || got.ModelVersion != want {
			t.Errorf("%s: got %v, %v", model, got, err)
		}
	}
	_, err = r.Generate(t.Context(), &backend.Request{Model: "unknown"})
	var e *backend.Error
	if !errors.As(err, &e) || e.Kind != backend.ModelNotFound || !strings.Contains(e.Message, "gemini-*") {
		t.Errorf("an unknown model: %v", err)
	}
	if r.Resolve("unknown") == nil || r.Resolve("exact") != nil {
		t.Error("Resolve disagrees with Generate")
	}
	all, err := r.Models(t.Context())
	if err != nil || len(all) != 2 || all[0].Name != "models/exact" {
		t.Errorf("got models %+v, %v", all, err)
	}
	for chunk, err := range r.Stream(t.Context(), &backend.Request{Model: "exact"}) {
		if err != nil || chunk.ModelVersion != "a/other" {
			t.Errorf("stream: got %v, %v", chunk, err)
		}
	}
	if _, err := backend.NewRouter([]backend.Route{{Match: "["}}, nil); err == nil {
		t.Error("a malformed pattern was accepted")
	}
}
