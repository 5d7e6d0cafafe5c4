package webhook

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
)

// MaxBody is how much of a message Handler reads. Events point to results and
// stay far below it.
const MaxBody = 1 << 20

// Handler verifies each message and passes it to next, which answers the sender:
// any 2xx acknowledges, everything else is sent again. What is not signed as it must
// be is answered 401, what is too large 413, and 503 means that the sender's keys
// can't be had. Why a message does not verify is not said to whoever sent it, but
// logged to slog.Default(). How long a body may take is a matter of the server: set its
// ReadTimeout.
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
		switch {
		case errors.Is(err, ErrKeySet):
			slog.ErrorContext(r.Context(), "webhook refused", "error", err)
			w.Header().Set("Retry-After", "30") // Not the sender's fault: it is to come again.
			refuse(w, http.StatusServiceUnavailable, "the message can't be verified just now")
			return
		case errors.Is(err, ErrMissingHeader):
			slog.WarnContext(r.Context(), "webhook refused", "error", err)
			refuse(w, http.StatusUnauthorized, "webhook-id, webhook-timestamp and webhook-signature are needed")
			return
		case err != nil:
			slog.WarnContext(r.Context(), "webhook refused", "error", err)
			refuse(w, http.StatusUnauthorized, "the message is not signed as it must be")
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
