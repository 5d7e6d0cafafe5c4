package deliver

import (
	"net/http"
	"testing"
	"time"
)

// FuzzRetryAfter: whatever a receiver says, the wait is never negative, never
// longer than a day, and what both forms say is understood.
func FuzzRetryAfter(f *testing.F) {
	for _, header := range []string{"", "0", "120", " 7 ", "-1", "+1", "1.5", "99999999999999999999", "Wed, 21 Oct 2026 07:28:00 GMT", "Wednesday, 21-Oct-26 07:28:00 GMT", "soon", "0x10", "1e3", "\x00"} {
		f.Add(header)
	}
	now := time.Date(2026, 10, 21, 7, 27, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, header string) {
		wait := retryAfter(header, now)
		if wait < 0 || wait > 24*time.Hour {
			t.Errorf("%q: %s", header, wait)
		}
	})
	for header, want := range map[string]time.Duration{"120": 2 * time.Minute, " 7 ": 7 * time.Second, "Wed, 21 Oct 2026 07:28:00 GMT": time.Minute, "Wed, 21 Oct 2020 07:28:00 GMT": 0,
		"999999": 24 * time.Hour, now.Add(48 * time.Hour).Format(http.TimeFormat): 24 * time.Hour, "soon": 0, "-5": 0} {
		if got := retryAfter(header, now); got != want {
			f.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}
