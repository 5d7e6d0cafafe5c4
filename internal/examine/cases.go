package examine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"ringback.dev/internal/jsjson"
	"ringback.dev/webhook"
)

// Case says what is sent, what is right, why it matters, and how a receiver does
// it well.
type Case struct {
	Name  string `json:"case"`
	Group string `json:"group"`
	Sent  string `json:"sent"`
	Want  string `json:"want"`
	Why   string `json:"why"`
	Fix   string `json:"fix"`
}

// kase is a case that can be run.
type kase struct {
	Case
	// scheme signs; empty means the one that the receiver is examined with.
	scheme string
	// gate: while this is not accepted, other cases of the scheme say nothing.
	gate bool
	// needs, if not nil, says whether the case can be run at all.
	needs func(*Config) bool
	run   func(context.Context, *exam) error
}

func (k *kase) applies(c *Config) bool {
	switch {
	case k.needs != nil && !k.needs(c):
		return false
	case k.scheme == webhook.SchemeV1:
		return len(c.Secrets) > 0
	case k.scheme == webhook.SchemeV1a:
		return c.Key != nil
	case k.scheme == webhook.SchemeJWT:
		return c.Token != nil
	}
	return true
}

// Cases lists all that can be examined, in the order in which it is done.
func Cases() []Case {
	var all []Case
	for _, k := range cases() {
		all = append(all, k.Case)
	}
	return all
}

// The groups of cases.
const (
	groupGood    = "Good messages"
	groupForged  = "Forged messages"
	groupTime    = "Time"
	groupOnce    = "Once, and not less"
	groupTrouble = "Trouble"
	groupV1a     = "Ed25519 (v1a)"
	groupJWT     = "Tokens (JWT)"
)

func cases() []kase {
	all := []kase{
		{Case{"valid", groupGood, "an event, correctly signed, just now",
			"2xx, and the effect", "Nothing works without it.",
			"Compute over the raw body, with the bytes that the base64 after whsec_ stands for, and answer 2xx as soon as the event is stored."},
			"", true, nil, oneAccepted(nil)},
		{Case{"lower-case", groupGood, "the headers' names in lower case",
			"2xx", "Names of headers have no case (RFC 9110 §5.1); HTTP/2 and many proxies send them in lower case.",
			"Ask the framework for a header by name; don't look it up in a map of your own."},
			"", false, nil, oneAccepted(func(_ *exam, m *message) error {
				m.edit = func(h http.Header) {
					for _, name := range []string{webhook.HeaderID, webhook.HeaderTimestamp, webhook.HeaderSignature} {
						value := h.Get(name)
						h.Del(name)
						h[name] = []string{value}
					}
				}
				return nil
			})},
		{Case{"pretty-printed", groupGood, "a body with spaces and line breaks, signed as it is sent",
			"2xx", "The signature is over bytes. Verified over JSON.stringify(JSON.parse(body)), it holds only for senders that print as you do, until one of them changes.",
			"Verify the raw body, before any JSON parser; in Express express.raw(), in Flask request.get_data()."},
			"", false, nil, oneAccepted(func(_ *exam, m *message) error {
				var b bytes.Buffer
				err := json.Indent(&b, m.body, "", "  ")
				m.body = b.Bytes()
				return err
			})},
		{Case{"unusual-json", groupGood, "JSON that your library would print otherwise: an escaped letter, white space around it",
			"2xx", "As above; and a body that is trimmed, decoded or normalised first has other bytes.",
			"Verify the raw body as received, to the last byte."},
			"", false, nil, oneAccepted(func(_ *exam, m *message) error {
				// The same value in other bytes: the first letter of the type as an escape, white
				// space where it may be.
				const start = `{"type":"`
				if first, ok := bytes.CutPrefix(m.body, []byte(start)); ok {
					m.body = fmt.Appendf(nil, "\r\n{ \"type\" : \"\\u%04x%s \n", first[0], first[1:])
				}
				return nil
			})},
		{Case{"unknown-members", groupGood, "an event with members that are not documented, at the top and in data",
			"2xx, and the effect", "Senders add members; an event is no less true for it.",
			"Ignore what you don't know: no additionalProperties: false, no strict decoder."},
			"", false, nil, oneAccepted(func(_ *exam, m *message) (err error) {
				if m.body, err = jsjson.Set(m.body, "examine", []byte(`{"new":[1,{"a":null}]}`)); err == nil {
					m.body, err = jsjson.Set(m.body, "data.examine", []byte(`true`))
				}
				return err
			})},
		{Case{"unknown-type", groupGood, "an event of a type that does not exist yet",
			"2xx", "Refused, it is sent again for 24 hours, counts as your failure, and can get your webhook disabled.",
			"Acknowledge first; then switch on the type and do nothing in the default case."},
			"", false, nil, unknownType},

		{Case{"forged", groupForged, "an event with a made-up signature",
			"4xx, and no effect", "Anybody can post to your address.",
			"Verify before anything else; answer 401 when it fails."},
			"", false, isV1, oneRefused(signature(func(string) string { return "v1," + randomBase64(32) }))},
		{Case{"wrong-secret", groupForged, "an event signed with another secret",
			"4xx, and no effect", "It could be another customer's sender, or your staging one.",
			"Verify with the secret of this webhook only."},
			"", false, isV1, oneRefused(func(_ *exam, m *message) error {
				other := webhook.NewSecret()
				m.edit = func(h http.Header) { h.Set(webhook.HeaderSignature, webhook.Sign(m.id, m.at, m.body, other)) }
				return nil
			})},
		{Case{"truncated", groupForged, "the beginning of a good signature, then an empty one",
			"4xx, and no effect", "A comparison of prefixes can be guessed byte by byte; an empty signature is the prefix of every one.",
			"Compare whole signatures, in constant time (hmac.compare_digest, crypto.timingSafeEqual, hmac.Equal)."},
			"", false, isV1, eachRefused(
				refusal{"8 characters", signature(func(s string) string { return s[:11] })},
				refusal{"empty", signature(func(string) string { return "v1," })})},
		{Case{"tampered", groupForged, "a body that was changed after it was signed",
			"4xx, and no effect", "A signature that does not cover the body covers nothing.",
			"Include the body's exact bytes in what is verified."},
			"", false, nil, oneRefused(tampered)},
		{Case{"tampered-id", groupForged, "a good message under another webhook-id",
			"4xx, and no effect", "Who can change the id can have one event acted on as often as he likes.",
			"What is signed is id.timestamp.body: verify all of it."},
			"", false, nil, oneRefused(func(_ *exam, m *message) error {
				m.edit = func(h http.Header) { h.Set(webhook.HeaderID, m.id+"x") }
				return nil
			})},
		{Case{"tampered-timestamp", groupForged, "an old message with a fresh timestamp put on it",
			"4xx, and no effect", "Who can change the timestamp can replay what he recorded long ago.",
			"What is signed is id.timestamp.body: verify all of it."},
			"", false, notJWT, oneRefused(func(x *exam, m *message) error {
				now := m.at
				m.at = now.Add(-2 * x.Tolerance)
				m.edit = func(h http.Header) { h.Set(webhook.HeaderTimestamp, unix(now)) }
				return nil
			})},
		{Case{"missing-headers", groupForged, "messages without webhook-id, without webhook-timestamp, without webhook-signature, without all three",
			"4xx, and no effect", "Code that verifies “if there is a signature” accepts everything without one; code that does not expect it breaks.",
			"Treat a missing header as a failed verification."},
			"", false, nil, eachRefused(
				refusal{"without id", without(webhook.HeaderID)},
				refusal{"timestamp", without(webhook.HeaderTimestamp)},
				refusal{"signature", without(webhook.HeaderSignature)},
				refusal{"all", without(webhook.HeaderID, webhook.HeaderTimestamp, webhook.HeaderSignature)})},
		{Case{"malformed-headers", groupForged, "headers that can't be parsed: “yesterday”, “v1”, “=,=”, a very long list",
			"4xx, and no effect", "An exception becomes a 500, which fills your log and your alarms at the will of others.",
			"Catch what parsing raises and answer as for a bad signature."},
			"", false, nil, eachRefused(
				refusal{"timestamp", header(webhook.HeaderTimestamp, "yesterday")},
				refusal{"fraction", header(webhook.HeaderTimestamp, "1e9")},
				refusal{"v1", header(webhook.HeaderSignature, "v1")},
				refusal{"base64", header(webhook.HeaderSignature, "v1,%%% =,= ,")},
				refusal{"long", header(webhook.HeaderSignature, strings.Repeat("v1,"+strings.Repeat("A", 43)+"= ", 150))})},

		{Case{"skewed", groupTime, "a message whose timestamp is a minute old",
			"2xx", "Clocks differ and networks are slow; a tolerance of seconds loses events.",
			"Allow five minutes in both directions."},
			"", false, nil, oneAccepted(func(_ *exam, m *message) error { m.at = m.at.Add(-time.Minute); return nil })},
		{Case{"late", groupTime, "an event of 20 hours ago, whose attempt is made now",
			"2xx, and the effect", "Retries go on for 24 hours. The event's own timestamp stays; only webhook-timestamp is of the attempt.",
			"Check webhook-timestamp, never the timestamp in the body."},
			"", false, nil, func(ctx context.Context, x *exam) error {
				body, err := x.Event(time.Now().Add(-20 * time.Hour))
				if err != nil {
					return err
				}
				r, err := x.send(ctx, x.about(body))
				if err != nil || !x.accepted(&r) {
					return err
				}
				return x.acted(ctx, 1)
			}},
		{Case{"stale", groupTime, "a correctly signed message whose timestamp is ten minutes old",
			"4xx, and no effect", "Whoever recorded a message once could send it again for ever.",
			"Refuse timestamps more than five minutes from your clock."},
			"", false, nil, oneRefused(func(x *exam, m *message) error { m.at = m.at.Add(-2 * x.Tolerance); return nil })},
		{Case{"future", groupTime, "a correctly signed message whose timestamp is ten minutes ahead",
			"4xx, and no effect", "now - timestamp > 300 is never true of it, so that it could be replayed for as long as it is ahead.",
			"Compare the distance in both directions."},
			"", false, nil, oneRefused(func(x *exam, m *message) error { m.at = m.at.Add(2 * x.Tolerance); return nil })},
		{Case{"rotation", groupTime, "two signatures, of which the receiver knows one: the second, then the first; then one of another scheme beside it",
			"2xx", "While a secret is being replaced every message bears a signature of each; one that takes only the first fails for a day.",
			"Split the header at spaces and accept if any v1 signature matches; pass over versions that you don't know."},
			"", false, isV1, rotation},
	}
	all = append(all, once()...)
	all = append(all, trouble()...)
	all = append(all, asymmetric()...)
	return append(all, tokens()...)
}

func isV1(c *Config) bool { return c.Scheme == webhook.SchemeV1 }

func notJWT(c *Config) bool { return c.Scheme != webhook.SchemeJWT }

// change makes of a good message what is sent.
type change func(x *exam, m *message) error

// oneAccepted sends one message that must be accepted and acted on.
func oneAccepted(to change) func(context.Context, *exam) error {
	return func(ctx context.Context, x *exam) error {
		m, err := x.event()
		if err == nil && to != nil {
			err = to(x, &m)
		}
		if err != nil {
			return err
		}
		r, err := x.send(ctx, m)
		if err != nil || !x.accepted(&r) {
			return err
		}
		return x.acted(ctx, 1)
	}
}

// refusal is a change after which a message must be refused, and its short name.
type refusal struct {
	note string
	to   change
}

// oneRefused sends one message that must be refused.
func oneRefused(to change) func(context.Context, *exam) error { return eachRefused(refusal{"", to}) }

// eachRefused sends messages that must all be refused, and not acted on.
func eachRefused(all ...refusal) func(context.Context, *exam) error {
	return func(ctx context.Context, x *exam) error {
		for _, one := range all {
			m, err := x.event()
			if err == nil {
				err = one.to(x, &m)
			}
			if err != nil {
				return err
			}
			m.note = one.note
			r, err := x.send(ctx, m)
			if err != nil {
				return err
			}
			x.refused(&r)
		}
		return x.acted(ctx, 0)
	}
}

// signature changes the signature header.
func signature(to func(string) string) change {
	return func(_ *exam, m *message) error {
		m.edit = func(h http.Header) { h.Set(webhook.HeaderSignature, to(h.Get(webhook.HeaderSignature))) }
		return nil
	}
}

func header(name, value string) change {
	return func(_ *exam, m *message) error {
		m.edit = func(h http.Header) { h.Set(name, value) }
		return nil
	}
}

func without(names ...string) change {
	return func(_ *exam, m *message) error {
		m.edit = func(h http.Header) {
			for _, name := range names {
				h.Del(name)
			}
		}
		return nil
	}
}

func unknownType(ctx context.Context, x *exam) error {
	m, err := x.event()
	if err == nil {
		m.body, err = jsjson.Set(m.body, "type", []byte(`"examine.not_invented_yet"`))
	}
	if err != nil {
		return err
	}
	r, err := x.send(ctx, m)
	if err == nil && x.accepted(&r) && x.Config.Effects != nil {
		// Whether it does something with it is its own business; it must not be taken for
		// the next case's.
		err = x.settle(ctx)
	}
	return err
}

func rotation(ctx context.Context, x *exam) error {
	known, other := x.Secrets[0], webhook.NewSecret()
	key := webhook.NewSigningKey()
	type try struct {
		note string
		with []webhook.Signer
	}
	tries := []try{{"known second", []webhook.Signer{other, known}}, {"known first", []webhook.Signer{known, other}}, {"beside v1a", []webhook.Signer{key, known}}}
	for i := range x.Secrets[1:] {
		tries = append(tries, try{"by the earlier secret", []webhook.Signer{x.Secrets[1+i]}})
	}
	for _, t := range tries {
		m, err := x.event()
		if err != nil {
			return err
		}
		m.note = t.note
		m.edit = func(h http.Header) { h.Set(webhook.HeaderSignature, webhook.Sign(m.id, m.at, m.body, t.with...)) }
		r, err := x.send(ctx, m)
		if err != nil {
			return err
		}
		x.accepted(&r)
	}
	return x.acted(ctx, int64(len(tries)))
}

func unix(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

func randomBase64(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // Never fails; it ends the program if it can't.
	return base64.StdEncoding.EncodeToString(b)
}
