package main

import (
	"crypto/hmac"
	"net/http"
	"strings"

	"ringback.dev/internal/jsjson"
)

// by is a receiver that does everything well but verify.
func (e *env) by(verified func(h http.Header, body []byte) bool) http.Handler {
	var ids claims
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := read(w, r)
		if !ok {
			return
		}
		if !verified(r.Header, body) {
			refuse(w, "the signature does not verify")
			return
		}
		answer(w, ids.once(r.Header.Get("webhook-id"), func() error { return e.act(body) }))
	})
}

// The mistake: “nobody knows the address”. It is in logs, in proxies, in a
// colleague's browser.
// The fix: verify every message.
func verifiesNothing(e *env) http.Handler {
	return e.by(func(http.Header, []byte) bool { return true })
}

// The mistake: if (signature) verify(…), written so that local trials go through.
// The fix: no signature is a bad signature.
func verifiesIfSigned(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		if h.Get("webhook-signature") == "" {
			return true
		}
		return fresh(h) && e.signed(h, body)
	})
}

// The mistake: header.split(",")[1] and parseInt without looking at the outcome.
// What anybody may send ends in an exception, a 500 and an alarm at night.
// The fix: what can't be parsed is refused like what does not verify.
func breaksOnMalformed(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		for token := range strings.SplitSeq(h.Get("webhook-signature"), " ") {
			_ = strings.Split(token, ",")[1]
		}
		if _, ok := distance(h); !ok {
			panic("the timestamp is not a number")
		}
		return fresh(h) && e.signed(h, body)
	})
}

// The mistake: strncmp(expected, given, strlen(given)), or a comparison that ends
// at the first difference and tells by its time where that was.
// The fix: compare the whole, in constant time.
func comparesPrefixes(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		want := e.hmacOf(e.key(), h, body)
		for token := range strings.SplitSeq(h.Get("webhook-signature"), " ") {
			if given, ok := strings.CutPrefix(token, "v1,"); ok && strings.HasPrefix(want, given) {
				return fresh(h)
			}
		}
		return false
	})
}

// The mistake: the secret's text is the key of the HMAC.
// The fix: the key is what the base64 after whsec_ stands for.
func secretAsText(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		want := e.hmacOf([]byte(e.secret.Reveal()), h, body)
		return fresh(h) && h.Get("webhook-signature") == "v1,"+want
	})
}

// The mistake: header == "v1," + expected. It works until the secret is rotated;
// then every message has two signatures.
// The fix: split at spaces, accept if any matches.
func firstSignature(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		first, _, _ := strings.Cut(h.Get("webhook-signature"), " ")
		return fresh(h) && hmac.Equal([]byte(first), []byte("v1,"+e.hmacOf(e.key(), h, body)))
	})
}

// The mistake: switch (version) { case "v1": verify(…) } and nothing in default, so
// that every other version passes.
// The fix: pass over versions that you don't know; accept only what matched.
func unknownVersion(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		for token := range strings.SplitSeq(h.Get("webhook-signature"), " ") {
			if version, _, _ := strings.Cut(token, ","); version == "v1" && !e.signed(h, body) {
				return false
			}
		}
		return fresh(h) && h.Get("webhook-signature") != ""
	})
}

// The mistake: the framework has parsed the body already, so it is printed again to
// be verified. It holds as long as the sender prints as JSON.stringify does.
// The fix: keep the raw body, and verify that.
func reserialises(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		printed, err := jsjson.Normalize(body) // As JavaScript prints it.
		return err == nil && fresh(h) && e.signed(h, printed)
	})
}

// The mistake: body.trim(), or a text filter between the socket and the verifier.
// The fix: verify what was received, to the last byte.
func trims(e *env) http.Handler {
	return e.by(func(h http.Header, body []byte) bool {
		return fresh(h) && e.signed(h, []byte(strings.TrimSpace(string(body))))
	})
}
