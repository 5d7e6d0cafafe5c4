package api

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"ringback.dev"
	"ringback.dev/internal/backend"
)

func TestCut(t *testing.T) {
	for _, c := range []struct{ path, id, verb string }{
		{"/v1/webhooks/abc", "abc", ""},
		{"/v1/webhooks/abc:ping", "abc", "ping"},
		{"/v1/webhooks/a:b:ping", "a:b", "ping"},
		{"/v1/webhooks/webhooks/abc:ping", "abc", "ping"},
		{"/v1/webhooks/webhooks%2Fabc:ping", "abc", "ping"},
		{"/v1/webhooks/abc/rotate_secret", "abc", "rotate_secret"},
		{"/v1/webhooks/webhooks", "webhooks", ""},
		{"/v1/webhooks/", "", ""},
	} {
		u, err := url.Parse(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if id, verb := cut(&http.Request{URL: u}, "webhooks"); id != c.id || verb != c.verb {
			t.Errorf("%s: got %q, %q, want %q, %q", c.path, id, verb, c.id, c.verb)
		}
	}
	for _, c := range []struct{ path, name, verb string }{
		{"/v1/models/m", "m", ""},
		{"/v1/models/m:generateContent", "m", "generateContent"},
		{"/v1/models/org/m:generateContent", "org/m", "generateContent"},
		{"/v1/models/qwen2.5:0.5b:generateContent", "qwen2.5:0.5b", "generateContent"},
		{"/v1/models/host:80/m", "host:80/m", ""},
	} {
		if name, verb := cutModel(&http.Request{URL: &url.URL{Path: c.path}}); name != c.name || verb != c.verb {
			t.Errorf("%s: got %q, %q, want %q, %q", c.path, name, verb, c.name, c.verb)
		}
	}
}

// FuzzCut checks that whatever is joined to a path the way the SDKs do it is cut
// off again.
func FuzzCut(f *testing.F) {
	f.Add("abc", "ping")
	f.Add("org/model:7b", "generateContent")
	f.Add("webhooks/", "")
	f.Fuzz(func(t *testing.T, id, verb string) {
		whole := &http.Request{URL: &url.URL{Path: "/v1/webhooks/" + id}}
		cut(whole, "webhooks")
		cutModel(whole)
		if strings.ContainsAny(verb, ":/") || verb == "" {
			return
		}
		r := &http.Request{URL: &url.URL{Path: "/v1/models/" + id + ":" + verb}}
		if gotID, gotVerb := cutModel(r); gotID != id || gotVerb != verb {
			t.Errorf("model %q and verb %q are cut to %q and %q", id, verb, gotID, gotVerb)
		}
		if strings.Contains(id, "/") {
			return
		}
		for _, path := range []string{"/v1/webhooks/" + id + ":" + verb, "/v1beta/webhooks/webhooks/" + id + ":" + verb, "/v1/webhooks/" + id + "/" + verb} {
			if id == "webhooks" && strings.HasSuffix(path, "/"+verb) {
				continue // "webhooks/webhooks/x" is the webhook x with its prefix.
			}
			if gotID, gotVerb := cut(&http.Request{URL: &url.URL{Path: path}}, "webhooks"); gotID != id || gotVerb != verb {
				t.Errorf("%s is cut to %q and %q", path, gotID, gotVerb)
			}
		}
	})
}

// Every code that may reach a client has its row; the rest are defects and are
// answered as internal errors. No row of the new surface may be 409, which its
// SDKs repeat.
func TestErrorTableIsWhole(t *testing.T) {
	for _, code := range []ringback.Code{ringback.InvalidArgument, ringback.NotFound, ringback.AlreadyExists, ringback.FailedPrecondition,
		ringback.Unauthenticated, ringback.PermissionDenied, ringback.TooLarge, ringback.MethodNotAllowed, ringback.Unavailable, ringback.StorageFull} {
		if _, ok := errorRows[code]; !ok {
			t.Errorf("no row for %q", code)
		}
	}
	for _, kind := range []backend.Kind{backend.InvalidRequest, backend.ModelNotFound, backend.RateLimited, backend.Unavailable, backend.Timeout} {
		if _, ok := backendRows[kind]; !ok {
			t.Errorf("no row for %q", kind)
		}
	}
	check := func(name string, row errorRow) {
		if row.http == http.StatusConflict {
			t.Errorf("%s: 409 on the new surface", name)
		}
		if row.code == "" || row.status == "" || row.http < 400 || row.classicHTTP < 400 {
			t.Errorf("%s: the row has gaps: %+v", name, row)
		}
	}
	for code, row := range errorRows {
		check(string(code), row)
	}
	for kind, row := range backendRows {
		check(string(kind), row)
	}
}
