package backend_test

import (
	"context"
	"errors"
	"testing"

	"ringback.dev/internal/backend"
)

// picky makes videos on all models but one.
type picky struct{ named }

func (picky) ResolveVideo(model string) error {
	if model == "mute" {
		return &backend.Error{Kind: backend.InvalidRequest, Message: "mute makes none"}
	}
	return nil
}

func (s picky) MakeVideos(_ context.Context, req *backend.VideoRequest, _ backend.VideoOutput) (*backend.VideoResult, error) {
	return &backend.VideoResult{FilteredReasons: []string{string(s.named) + "/" + req.Model}}, s.ResolveVideo(req.Model)
}

func TestRouterVideos(t *testing.T) {
	r, err := backend.NewRouter([]backend.Route{{Match: "film", Backend: picky{"a"}, As: "other"}, {Match: "quiet", Backend: picky{"a"}, As: "mute"},
		{Match: "text", Backend: named("b")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.MakeVideos(t.Context(), &backend.VideoRequest{Model: "film"}, nil)
	if err != nil || got.FilteredReasons[0] != "a/other" || r.ResolveVideo("film") != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	for model, kind := range map[string]backend.Kind{"quiet": backend.InvalidRequest, "text": backend.InvalidRequest, "none": backend.ModelNotFound} {
		var e *backend.Error
		if _, err := r.MakeVideos(t.Context(), &backend.VideoRequest{Model: model}, nil); !errors.As(err, &e) || e.Kind != kind {
			t.Errorf("%s: %v", model, err)
		}
		if err := r.ResolveVideo(model); !errors.As(err, &e) || e.Kind != kind {
			t.Errorf("%s: %v", model, err)
		}
	}
}
