package webhook_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"ringback.dev/webhook"
)

// TestSecretNeverPrintsUnderAnyVerb: verbs for numbers pass over String, and fmt
// calls no method at all on what an unexported field holds.
func TestSecretNeverPrintsUnderAnyVerb(t *testing.T) {
	secret, err := webhook.ParseSecret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	holder := struct{ secrets []webhook.Secret }{[]webhook.Secret{secret}}
	for _, verb := range strings.Fields("%v %+v %#v %s %q %x %X %d %b %o %c %U %t %e %p %T") {
		for _, value := range []any{secret, &secret, []webhook.Secret{secret}, holder, &holder} {
			checkHidden(t, verb, fmt.Sprintf(verb, value))
		}
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", secret, "holder", holder)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", secret, "holder", holder)
	checkHidden(t, "slog", log.String())
	checkHidden(t, "zero", fmt.Sprintf("%v %d", webhook.Secret{}, webhook.Secret{}))
}

// checkHidden looks for the first bytes of the key (31 f2 90 f6) in any form.
func checkHidden(t *testing.T, how, shown string) {
	t.Helper()
	for _, form := range []string{"MfKQ9r8GKYqrTwjUPD8I", "31f290", "31F290", "49 242 144", "0x31, 0xf2", "110001 11110010", "61 362 220", "242"} {
		if strings.Contains(shown, form) {
			t.Errorf("%s shows the secret: %s", how, shown)
			return
		}
	}
}

// TestSignAtOnce: one secret signs for many goroutines.
func TestSignAtOnce(t *testing.T) {
	secret, at := webhook.NewSecret(), time.Unix(1614265330, 0)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			again, err := webhook.ParseSecret(secret.Reveal())
			if err != nil {
				t.Error(err)
			}
			for i := range 200 {
				body := fmt.Appendf(nil, "%d %d", n, i)
				// A secret that was just parsed holds nothing that could be reused.
				if i%20 == 0 {
					again, _ = webhook.ParseSecret(secret.Reveal())
				}
				if got, want := webhook.Sign("msg_1", at, body, secret), webhook.Sign("msg_1", at, body, again); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		})
	}
	wg.Wait()
}
