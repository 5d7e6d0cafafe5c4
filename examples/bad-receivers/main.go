// Command bad-receivers is a set of receivers of webhooks, each with one mistake
// as it is met in real life, and a good one. ringback examine finds every one.
//
//	go run ./examples/bad-receivers -list
//	go run ./examples/bad-receivers -fault checks-then-acts -secret whsec_…
//	ringback examine http://127.0.0.1:3000/hook --secret whsec_… --effects http://127.0.0.1:3000/effects
//
// Each file tells one kind of mistake, with its fix. good.go shows how it is done.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"ringback.dev/webhook"
)

// fault is a receiver with one mistake.
type fault struct {
	name    string
	mistake string
	// found are the cases of ringback examine that tell.
	found   []string
	handler func(*env) http.Handler
}

// faults lists all, the good one first.
func faults() []fault {
	return []fault{
		{"none", "the good receiver", nil, good},

		{"verifies-nothing", "it trusts whoever posts", []string{"forged", "wrong-secret", "truncated", "tampered", "tampered-id", "tampered-timestamp", "missing-headers", "malformed-headers", "stale", "future"}, verifiesNothing},
		{"verifies-if-signed", "it verifies only if there is a signature", []string{"missing-headers"}, verifiesIfSigned},
		{"breaks-on-malformed", "an exception over a header becomes a 500", []string{"missing-headers", "malformed-headers"}, breaksOnMalformed},
		{"compares-prefixes", "it compares as many characters as it was given", []string{"truncated"}, comparesPrefixes},
		{"secret-as-text", "it takes the text whsec_… for the key", []string{"valid"}, secretAsText},
		{"first-signature", "it looks at the first signature only", []string{"rotation"}, firstSignature},
		{"unknown-version", "a version that it does not know counts as verified", []string{"v1a-forged", "v1a-tampered"}, unknownVersion},
		{"reserialises", "it verifies JSON.stringify(JSON.parse(body))", []string{"pretty-printed", "unusual-json"}, reserialises},
		{"trims", "it trims the body before it verifies", []string{"unusual-json"}, trims},
		{"case-sensitive", "it looks headers up by their exact case", []string{"lower-case"}, caseSensitive},

		{"ignores-time", "it does not look at the timestamp", []string{"stale", "future"}, ignoresTime},
		{"past-only", "it refuses what is old, not what is ahead", []string{"future"}, pastOnly},
		{"strict-clock", "it allows 30 seconds", []string{"skewed"}, strictClock},
		{"event-time", "it checks the time of the event, not of the attempt", []string{"late", "reordered"}, eventTime},
		{"newest-only", "it refuses what happened before the last event", []string{"late", "reordered"}, newestOnly},

		{"rejects-unknown-types", "a type that it does not know is an error", []string{"unknown-type"}, rejectsUnknownTypes},
		{"rejects-unknown-members", "a member that it does not know is an error", []string{"unknown-members"}, rejectsUnknownMembers},
		{"redirects", "it redirects to the address with a slash at its end", []string{"valid"}, redirects},
		{"works-first", "it does the work before it answers", []string{"valid"}, worksFirst},

		{"forgets", "it acts on every message", []string{"duplicate", "concurrent", "hung-up"}, forgets},
		{"checks-then-acts", "it looks for the id, works, and notes the id then", []string{"concurrent"}, checksThenActs},
		{"key-is-job", "it takes the job's id for the key of doubles", []string{"same-job"}, keyIsJob},
		{"key-is-signature", "it takes the signature for the key of doubles", []string{"duplicate", "concurrent", "hung-up"}, keyIsSignature},
		{"refuses-doubles", "it answers 409 to a double", []string{"duplicate", "concurrent", "hung-up"}, refusesDoubles},
		{"marks-first", "it notes the id, then works", []string{"failure"}, marksFirst},
		{"swallows-errors", "it answers 200 whatever the work came to", []string{"failure"}, swallowsErrors},
		{"stops-with-request", "its work ends with the sender's patience, the note of the id stays", []string{"hung-up"}, stopsWithRequest},

		{"reads-all", "it reads bodies of any size", []string{"huge"}, readsAll},
		{"reads-once", "it takes the first piece for the whole", []string{"slow-body"}, readsOnce},
		{"one-at-a-time", "it serves one request at a time", []string{"stalled-body"}, oneAtATime},

		{"jwt-unverified", "it decodes the token and verifies nothing", []string{"jwt-unknown-kid", "jwt-forged", "jwt-own-key", "jwt-none", "jwt-hs256"}, jwtUnverified},
		{"jwt-none", "it lets the token say that it needs no signature", []string{"jwt-none"}, jwtNone},
		{"jwt-any-algorithm", "it lets the token choose HMAC, and gives it the public key", []string{"jwt-hs256"}, jwtAnyAlgorithm},
		{"jwt-own-key", "it verifies by the key that the token brings", []string{"jwt-own-key"}, jwtOwnKey},
		{"jwt-key-error", "an unknown kid is an exception", []string{"jwt-unknown-kid"}, jwtKeyError},
		{"jwt-any-audience", "it does not look for whom the token is", []string{"jwt-audience"}, jwtAnyAudience},
		{"jwt-for-ever", "it does not look until when the token is good", []string{"jwt-expired"}, jwtForEver},
		{"jwt-any-body", "it acts on the body, which the token does not vouch for", []string{"jwt-body"}, jwtAnyBody},
		{"jwt-any-id", "it drops doubles by an id that the token does not vouch for", []string{"jwt-id"}, jwtAnyID},
	}
}

func main() {
	name := flag.String("fault", "none", "the `mistake` to show")
	list := flag.Bool("list", false, "list the mistakes, and the cases of ringback examine that find them")
	listen := flag.String("listen", "127.0.0.1:3000", "`address` to listen on")
	secret := flag.String("secret", os.Getenv("WEBHOOK_SECRET"), "signing secret, `whsec_…`")
	jwks := flag.String("jwks", "", "`address` of the sender's key set")
	audience := flag.String("audience", "", "this receiver's own `address`, which tokens must name; by default http://LISTEN/hook")
	flag.Parse()
	if *list {
		t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "FAULT\tMISTAKE\tFOUND BY")
		for _, f := range faults() {
			fmt.Fprintf(t, "%s\t%s\t%s\n", f.name, f.mistake, strings.Join(f.found, " "))
		}
		_ = t.Flush() // To the standard output.
		return
	}
	e := &env{audience: *audience}
	if e.audience == "" {
		e.audience = "http://" + *listen + "/hook"
	}
	var err error
	if e.secret, err = webhook.ParseSecret(*secret); err != nil {
		log.Fatalf("-secret: %v", err)
	}
	if *jwks != "" {
		e.jwks = *jwks
		e.keys = webhook.NewKeySet(*jwks)
	}
	for _, f := range faults() {
		if f.name != *name {
			continue
		}
		l, err := net.Listen("tcp", *listen)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\nlistening on http://%s/hook, effects at http://%s/effects\n", f.name, f.mistake, l.Addr(), l.Addr())
		log.Fatal(serve(l, f.handler(e), e))
	}
	log.Fatalf("-fault: there is no %q; -list shows them", *name)
}

// serve serves a receiver at /hook and the number of its effects at /effects.
func serve(l net.Listener, receiver http.Handler, e *env) error {
	return server(receiver, e).Serve(&noting{l})
}

func server(receiver http.Handler, e *env) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("/hook", receiver)
	mux.Handle("/hook/", receiver)
	mux.HandleFunc("GET /effects", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, e.count()) })
	return &http.Server{Handler: mux, ReadTimeout: time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }}
}
