package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genai/interactions/models/apierrors"
	"google.golang.org/genai/interactions/models/operations"
)

// TestKeys proves where a key is looked for, and what a missing or wrong one is
// answered on each surface: they differ, and clients tell them apart.
func TestKeys(t *testing.T) {
	s := start(t, "serve", "--emulator")
	const newSurface, classic = "/v1/webhooks", "/v1beta/models"
	for _, c := range []struct {
		name, path, header, value string
		status                    int
		code                      any // What error.code holds: a text on the new surface, a number on the classic.
		word                      string
	}{
		{"new, none", newSurface, "", "", 401, "authentication", "missing"},
		{"new, wrong", newSurface, "x-goog-api-key", "wrong", 401, "authentication", "not valid"},
		{"new, wrong in the query", newSurface + "?key=wrong", "", "", 401, "authentication", "not valid"},
		{"classic, none", classic, "", "", 403, 403.0, "PERMISSION_DENIED"},
		{"classic, wrong", classic, "x-goog-api-key", "wrong", 400, 400.0, "API_KEY_INVALID"},
		{"classic, wrong bearer", classic, "Authorization", "Bearer wrong", 400, 400.0, "API_KEY_INVALID"},
		{"header", newSurface, "x-goog-api-key", s.Key, 200, nil, "webhooks"},
		{"bearer", newSurface, "Authorization", "Bearer " + s.Key, 200, nil, "webhooks"},
		{"query", classic + "?key=" + s.Key, "", "", 200, nil, "models"},
		{"the header wins", classic + "?key=" + s.Key, "x-goog-api-key", "wrong", 400, 400.0, "API_KEY_INVALID"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.header != "" {
				q.Header.Set(c.header, c.value)
			}
			resp, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			var body struct{ Error struct{ Code any } }
			if err := json.Unmarshal(text, &body); err != nil {
				t.Fatalf("%v in %s", err, text)
			}
			if resp.StatusCode != c.status || body.Error.Code != c.code || !strings.Contains(string(text), c.word) {
				t.Errorf("got %d %s", resp.StatusCode, text)
			}
			if strings.Contains(string(text), s.Key) {
				t.Errorf("the answer shows the key: %s", text)
			}
		})
	}
}

// TestGoErrors proves that an interaction's error has the type that the SDK
// declares for the call. A numeric code would be a failure to decode instead.
func TestGoErrors(t *testing.T) {
	c := goClient(t, dev(t), "any")
	_, err := c.Interactions.Get(t.Context(), operations.GetInteractionByIDRequest{ID: "v1_nosuch"})
	var get *apierrors.GetInteractionByIDClientError
	if !errors.As(err, &get) {
		t.Errorf("get: %T %v", err, err)
	}
	_, err = c.Interactions.Cancel(t.Context(), operations.CancelInteractionByIDRequest{ID: "v1_nosuch"})
	var cancel *apierrors.CancelInteractionByIDClientError
	if !errors.As(err, &cancel) {
		t.Errorf("cancel: %T %v", err, err)
	}
	_, err = c.Interactions.Delete(t.Context(), operations.DeleteInteractionRequest{ID: "v1_nosuch"})
	var del *apierrors.DeleteInteractionClientError
	if !errors.As(err, &del) {
		t.Errorf("delete: %T %v", err, err)
	}
}
