package webhook

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// MaxBody is how much of a message Handler reads. Events point to results and
// stay far below it.
const MaxBody = 1 << 20

// Handler verifies each message and passes it to next; what can't be verified is
// answered 401, what is too large 413, both with the reason as JSON. next
// answers the sender: any 2xx acknowledges, everything else is sent again.
//
//	http.Handle("/hook", webhook.Handler(&webhook.Verifier{Secrets: secrets}, func(w http.ResponseWriter, r *http.Request, m webhook.Message) {
//		w.WriteHeader(http.StatusNoContent)
//	}))
func Handler(v *Verifier, next func(http.ResponseWriter, *http.Request, Message)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			refuse(w, http.StatusMethodNotAllowed, "webhooks are sent with POST")
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
		if err != nil {
			var tooLarge *http.MaxBytesError
			if errors.As(err, &tooLarge) {
				refuse(w, http.StatusRequestEntityTooLarge, "the body is larger than 1 MiB")
			} else {
				refuse(w, http.StatusBadRequest, "the body broke off")
			}
			return
		}
		m, err := v.VerifyContext(r.Context(), r.Header, body)
		if errors.Is(err, ErrKeySet) {
			w.Header().Set("Retry-After", "30") // Not the sender's fault: it is to come again.
			refuse(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		if err != nil {
			refuse(w, http.StatusUnauthorized, err.Error())
			return
		}
		next(w, r, m)
	})
}

func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"message": message}}) // The sender has gone if this fails.
}
