package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAwait: a server that goes away while a batch is waited for is asked again; one
// that was never there, or that refuses, is not.
func TestAwait(t *testing.T) {
	answers := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/gone") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		switch answers++; answers {
		case 1:
			fmt.Fprint(w, `{"name":"batches/b","metadata":{"state":"BATCH_STATE_RUNNING","batchStats":{"requestCount":"2"}}}`)
		case 2:
			w.WriteHeader(http.StatusBadGateway)
		default:
			fmt.Fprint(w, `{"name":"batches/b","done":true,"metadata":{"state":"BATCH_STATE_SUCCEEDED","batchStats":{"requestCount":"2","successfulRequestCount":"2"}}}`)
		}
	}))
	defer server.Close()
	c := &client{Server: server.URL, APIKey: "any"}
	var out, errs strings.Builder
	if err := c.awaitBatch(t.Context(), &streams{out: &out, err: &errs}, "b"); err != nil || !strings.Contains(out.String(), "succeeded") || !strings.Contains(errs.String(), "rows  2 of 2") {
		t.Errorf("%v: %s%s", err, out.String(), errs.String())
	}
	if err := c.awaitBatch(t.Context(), &streams{out: &out, err: &errs}, "gone"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
	if n := strings.Count(errs.String(), "rows"); n != 1 {
		t.Errorf("%d lines of progress: %s", n, errs.String())
	}
	server.Close()
	if err := c.awaitBatch(t.Context(), &streams{out: &out, err: &errs}, "b"); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
}
