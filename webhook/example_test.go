package webhook_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"ringback.dev/webhook"
)

// A receiver in three lines: only verified messages reach the function.
func ExampleHandler() {
	secret := webhook.NewSecret() // In real life: webhook.ParseSecret(os.Getenv("WEBHOOK_SECRET"))
	hook := webhook.Handler(&webhook.Verifier{Secrets: []webhook.Secret{secret}}, func(w http.ResponseWriter, _ *http.Request, m webhook.Message) {
		event, _ := webhook.ParseEvent(m.Body)
		fmt.Println(m.ID, event.Type)
		w.WriteHeader(http.StatusNoContent)
	})

	body := `{"type":"interaction.completed","version":"v1","timestamp":"2026-10-01T12:05:00Z","data":{"id":"v1_abc"}}`
	now := time.Now()
	r := httptest.NewRequest(http.MethodPost, "/hook", strings.NewReader(body))
	r.Header.Set(webhook.HeaderID, "msg_1")
	r.Header.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	r.Header.Set(webhook.HeaderSignature, webhook.Sign("msg_1", now, []byte(body), secret))
	hook.ServeHTTP(httptest.NewRecorder(), r)
	// Output: msg_1 interaction.completed
}
