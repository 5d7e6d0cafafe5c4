package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"ringback.dev/inbox"
)

// Sample is an event to try a configuration with.
type Sample struct {
	Source, ID string
	Body       []byte
}

// Check reads a configuration file and reports what is in it, and, if there is a
// sample, what would be done about it. Nothing is done and nobody is connected to.
// The error is a Problems if the file is not good.
func Check(path string, sample *Sample, to io.Writer) error {
	s, err := load(path)
	if err != nil {
		return err
	}
	defer s.close()
	if sample == nil {
		return s.describe(to)
	}
	return s.try(sample, to)
}

// Located puts a file's name before its problems, as compilers do.
func Located(path string, err error) []string {
	var all Problems
	if !errors.As(err, &all) {
		return []string{err.Error()}
	}
	lines := make([]string, len(all))
	for i, p := range all {
		at := path + ": "
		if p.Line > 0 {
			at = fmt.Sprintf("%s:%d: ", path, p.Line)
		}
		p.Line = 0
		lines[i] = at + p.String()
	}
	return lines
}

// describe prints sources and routes.
func (s *setup) describe(to io.Writer) error {
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	scheme := "http"
	if s.cert != nil {
		scheme = "https"
	}
	fmt.Fprintf(t, "sources, on %s://%s\n", scheme, s.config.Listen)
	for _, path := range slices.Sorted(maps.Keys(s.sources)) {
		src := s.sources[path]
		fmt.Fprintf(t, "  %s\t%s\t%s\n", src.name, path, src.how(s.config.Sources[src.name].JWKS))
	}
	fmt.Fprintln(t, "\nroutes")
	for _, r := range s.routes {
		fmt.Fprintf(t, "  %s\t%s\n", r.name, r)
		for _, a := range r.actions {
			fmt.Fprintf(t, "    %s\t%s\t%s, %s\n", a.name, a.kind, a.summary, a.effort())
		}
	}
	return t.Flush()
}

// how says how messages of a source are verified.
func (s *source) how(jwks string) string {
	var ways []string
	if n := len(s.verifier.Secrets); n > 0 {
		ways = append(ways, fmt.Sprintf("v1 by %s", count(n, "secret")))
	}
	if n := len(s.verifier.PublicKeys); n > 0 {
		ways = append(ways, fmt.Sprintf("v1a by %s", count(n, "key")))
	}
	if jwks != "" {
		schemes := "v1a"
		if len(s.verifier.Audience) > 0 {
			schemes = "v1a, jwt"
		}
		ways = append(ways, schemes+" by "+jwks)
	}
	text := strings.Join(ways, "; ")
	if len(s.allow) > 0 {
		text += "; from " + count(len(s.allow), "prefix")
	}
	return text
}

func count(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "x"):
		return fmt.Sprintf("%d %ses", n, what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// String says which events the route is for.
func (r *route) String() string {
	var parts []string
	if len(r.sources) > 0 {
		parts = append(parts, "from "+strings.Join(r.sources, " or "))
	}
	if len(r.types) > 0 {
		parts = append(parts, "type "+strings.Join(r.types, " or "))
	}
	for _, name := range slices.Sorted(maps.Keys(r.metadata)) {
		parts = append(parts, fmt.Sprintf("metadata.%s is %v", name, r.metadata[name]))
	}
	if r.condition != "" {
		parts = append(parts, "when "+r.condition)
	}
	if len(parts) == 0 {
		return "every event"
	}
	return strings.Join(parts, ", ")
}

// effort says how hard an action is tried.
func (a *action) effort() string {
	return fmt.Sprintf("%s each, %s in %s", short(a.timeout), count(len(a.delays)+1, "attempt"), short(a.window))
}

// try prints what would be done about a sample.
func (s *setup) try(x *Sample, to io.Writer) error {
	names := slices.Sorted(maps.Keys(s.config.Sources))
	source := x.Source
	if source == "" && len(names) == 1 {
		source = names[0]
	}
	if source == "" {
		return fmt.Errorf("there are several sources: say from which the event comes: %s", strings.Join(names, ", "))
	}
	if !s.has(source) {
		return fmt.Errorf("there is no source %s: use one of %s", source, strings.Join(names, ", "))
	}
	id := x.ID
	if id == "" {
		id = "msg_sample"
	}
	e := &Event{Source: source, ID: id, Body: x.Body, Received: time.Now()}
	// As the inbox reads it.
	var typed struct{ Type string }
	err := json.Unmarshal(x.Body, &typed)
	kind := typed.Type
	switch {
	case err != nil:
		kind = "which is no event (" + err.Error() + ")"
	case inbox.CheckID(typed.Type) != nil:
		kind = "which has no type"
	default:
		e.Type = typed.Type
	}
	fmt.Fprintf(to, "%s/%s, %s\n", source, id, kind)
	bad := false
	for _, r := range s.routes {
		met, err := r.match(e)
		switch {
		case err != nil:
			bad = true
			fmt.Fprintf(to, "\n  %v\n", err)
		case !met:
			fmt.Fprintf(to, "\n  %s: does not match (%s)\n", r.name, r)
			continue
		default:
			fmt.Fprintf(to, "\n  %s: matches\n", r.name)
		}
		if err != nil {
			continue
		}
		for _, a := range r.actions {
			fmt.Fprintf(to, "    %s: %s\n", a.name, a.summary)
			lines, err := a.preview(&task{Event: e, action: a.name, number: 1})
			if err != nil {
				bad = true
				lines = []string{"it would fail: " + err.Error()}
			}
			for _, line := range lines {
				fmt.Fprintf(to, "      %s\n", line)
			}
		}
	}
	if bad {
		return errors.New("the event and the file don't fit together, as said above")
	}
	return nil
}

// The previews say what an attempt would do, without doing anything.

func (f *forward) preview(t *task) ([]string, error) {
	lines := []string{fmt.Sprintf("POST, %d bytes under webhook-id %s", len(t.Body), t.ID)}
	for _, h := range f.headers {
		value := "(secret)"
		if h.text != nil {
			var err error
			if value, err = h.text.render(t.Event, headerValue); err != nil {
				return nil, fmt.Errorf("headers.%s: %w", h.name, err)
			}
		}
		lines = append(lines, h.name+": "+value)
	}
	return lines, nil
}

func (x *command) preview(t *task) ([]string, error) {
	words := []string{x.program}
	for i, a := range x.args[1:] {
		text, err := a.render(t.Event, nil)
		if err != nil {
			return nil, fmt.Errorf("command[%d]: %w", i+1, err)
		}
		words = append(words, fmt.Sprintf("%q", text))
	}
	lines := []string{strings.Join(words, " ")}
	for _, v := range x.env {
		text, err := v.text.render(t.Event, nil)
		if err != nil {
			return nil, fmt.Errorf("env.%s: %w", v.name, err)
		}
		lines = append(lines, fmt.Sprintf("%s=%q", v.name, text))
	}
	return lines, nil
}

func (s *statements) preview(t *task) ([]string, error) {
	var lines []string
	for i, text := range s.texts {
		args, err := s.values(t.Event, i)
		if err != nil {
			return nil, err
		}
		lines = append(lines, strings.Join(strings.Fields(text), " "))
		for j, v := range args {
			shown, err := asJSON(v)
			if err != nil {
				return nil, err
			}
			lines = append(lines, fmt.Sprintf("  %s = %s", s.sources[i][j], shown))
		}
	}
	return lines, nil
}

func (j *job) preview(t *task) ([]string, error) {
	to, body, err := j.request(t)
	if err != nil {
		return nil, err
	}
	return []string{"POST " + to.Path, "Idempotency-Key: " + idempotencyKey(t), string(body)}, nil
}

func (n *notice) preview(t *task) ([]string, error) {
	text, err := message(t, n.text, chats[n.chat].escape)
	return strings.Split(text, "\n"), err
}

func (l *letter) preview(t *task) ([]string, error) {
	subject, err := l.subject.show(t.Event, nil)
	if err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	text, err := message(t, l.text, nil)
	return append([]string{"Subject: " + subject}, strings.Split(text, "\n")...), err
}

func (d *download) preview(t *task) ([]string, error) {
	from, err := d.address(t.Event)
	if err != nil {
		return nil, err
	}
	name, err := d.fileName(t.Event)
	if err != nil {
		return nil, err
	}
	key := ""
	if d.server.sameHost(from) && d.server.key != "" {
		key = ", with the API key"
	}
	return []string{"GET " + from.Redacted() + key, "to " + d.to.path(name)}, nil
}
