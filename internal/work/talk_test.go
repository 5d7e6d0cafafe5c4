package work

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ringback.dev/internal/genai"
)

// piece is a part of an answer that comes as one.
type piece struct{ kind, text string }

// anAnswer draws an answer as pieces: runs of thoughts, text and calls.
func anAnswer(t *rapid.T, label string) []piece {
	var all []piece
	for i := range rapid.IntRange(0, 4).Draw(t, label+" steps") {
		kind := rapid.SampledFrom([]string{"thought", "text", "call"}).Draw(t, fmt.Sprint(label, " kind ", i))
		if kind == "call" {
			all = append(all, piece{kind, fmt.Sprintf(`{"n":%d,"s":"%s"}`, i, rapid.StringMatching(`[a-c ]{0,9}`).Draw(t, "argument"))})
			continue
		}
		all = append(all, piece{kind, rapid.StringMatching(`[a-c ]{1,12}`).Draw(t, "text")})
	}
	return all
}

// cutUp cuts an answer into chunks at random places.
func cutUp(t *rapid.T, all []piece) []*genai.GenerateContentResponse {
	var out []*genai.GenerateContentResponse
	for i, p := range all {
		rest := p.text
		for first := true; rest != "" || first; first = false {
			n := rapid.IntRange(min(1, len(rest)), len(rest)).Draw(t, "cut")
			part := genai.Part{}
			text := rest[:n]
			rest = rest[n:]
			switch p.kind {
			case "call":
				part.CallPiece = &genai.CallPiece{Index: i, Arguments: text}
				if first {
					part.CallPiece.ID, part.CallPiece.Name = fmt.Sprint("c", i), "f"
				}
			default:
				part.Text, part.Thought = &text, p.kind == "thought"
			}
			out = append(out, &genai.GenerateContentResponse{Candidates: []genai.Candidate{{Content: &genai.Content{Parts: []genai.Part{part}}}}})
		}
	}
	return out
}

// listener is a client that puts the steps together from events.
type listener struct {
	t       *rapid.T
	steps   []string
	stopped []bool
}

func (l *listener) hear(e *genai.InteractionEvent) {
	switch e.Type {
	case genai.EventStepStart:
		if *e.Index != len(l.steps) {
			l.t.Fatalf("step %d begins after %d others", *e.Index, len(l.steps))
		}
		l.steps, l.stopped = append(l.steps, e.Step.Type+e.Step.ID+":"), append(l.stopped, false)
	case genai.EventStepDelta:
		if l.stopped[*e.Index] {
			l.t.Fatalf("step %d goes on after its end", *e.Index)
		}
		_, text, _, err := split(e.Delta)
		if err != nil {
			l.t.Fatal(err)
		}
		l.steps[*e.Index] += text
	case genai.EventStepStop:
		if l.stopped[*e.Index] {
			l.t.Fatalf("step %d ends twice", *e.Index)
		}
		l.stopped[*e.Index] = true
	}
}

// heard is the steps that a client must have heard in the end.
func heard(out genai.InteractionOutput) []string {
	all := []string{}
	for i := range out.Steps {
		s := &out.Steps[i]
		text := s.Type + s.ID + ":"
		for _, d := range s.Deltas() {
			_, piece, _, _ := split(&d) // No media.
			text += piece
		}
		all = append(all, text)
	}
	return all
}

// run talks through an answer and returns the events.
func (l *listener) run(chunks []*genai.GenerateContentResponse, earlier []*genai.InteractionEvent) ([]*genai.InteractionEvent, genai.InteractionOutput) {
	var events []*genai.InteractionEvent
	t := newTalk(&genai.InteractionSpec{}, func(e *genai.InteractionEvent) error {
		b, err := genai.AppendEvent(nil, 1, e)
		if err != nil {
			return err
		}
		copied, err := genai.ReadEvent(b) // As it is read from the store.
		events = append(events, copied)
		return err
	})
	for _, e := range earlier {
		if err := t.recall(e); err != nil {
			l.t.Fatal(err)
		}
	}
	for _, c := range chunks {
		if err := t.chunk(c); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := t.close(); err != nil {
		l.t.Fatal(err)
	}
	return events, t.output()
}

// A run that was cut off anywhere is followed by one that says the same, in other
// chunks: clients hear each step once and whole, as if nothing had happened.
func TestTalkGoesOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := anAnswer(t, "answer")
		l := &listener{t: t}
		events, out := l.run(cutUp(t, all), nil)
		cut := rapid.IntRange(0, len(events)).Draw(t, "heard")
		for _, e := range events[:cut] {
			l.hear(e)
		}
		events, again := l.run(cutUp(t, all), events[:cut])
		for _, e := range events {
			l.hear(e)
		}
		if d := cmp.Diff(out, again); d != "" {
			t.Fatalf("the outputs differ:\n%s", d)
		}
		if d := cmp.Diff(heard(out), append([]string{}, l.steps...)); d != "" {
			t.Fatalf("(-said +heard):\n%s", d)
		}
		for i, stopped := range l.stopped {
			if !stopped {
				t.Fatalf("step %d has no end", i)
			}
		}
	})
}

// When the second run says something else, clients hear what is new whole, after
// what they had heard, and every step has its end.
func TestTalkDiverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &listener{t: t}
		events, _ := l.run(cutUp(t, anAnswer(t, "first")), nil)
		cut := rapid.IntRange(0, len(events)).Draw(t, "heard")
		for _, e := range events[:cut] {
			l.hear(e)
		}
		events, out := l.run(cutUp(t, anAnswer(t, "second")), events[:cut])
		for _, e := range events {
			l.hear(e)
		}
		// Each step of the answer was heard whole, in order; others are interrupted ones.
		want := heard(out)
		for _, s := range l.steps {
			if len(want) > 0 && s == want[0] {
				want = want[1:]
			}
		}
		if len(want) > 0 {
			t.Fatalf("not heard: %q in %q", want, l.steps)
		}
		for i, stopped := range l.stopped {
			if !stopped {
				t.Fatalf("step %d has no end: %q", i, l.steps)
			}
		}
	})
}

// Calls that come by turns are kept apart; one whose arguments are no object ends
// the answer.
func TestTalkOfCalls(t *testing.T) {
	var said []string
	talk := newTalk(&genai.InteractionSpec{}, func(e *genai.InteractionEvent) error {
		b, err := json.Marshal(e)
		said = append(said, string(b))
		return err
	})
	say := func(pieces ...genai.CallPiece) error {
		c := &genai.Content{}
		for i := range pieces {
			c.Parts = append(c.Parts, genai.Part{CallPiece: &pieces[i]})
		}
		return talk.chunk(&genai.GenerateContentResponse{Candidates: []genai.Candidate{{Content: c}}})
	}
	if err := say(genai.CallPiece{Index: 0, ID: "a", Name: "f"}, genai.CallPiece{Index: 1, ID: "b", Name: "g", Arguments: "{"},
		genai.CallPiece{Index: 0, Arguments: `{"x": 1`}, genai.CallPiece{Index: 1, Arguments: "}"}, genai.CallPiece{Index: 0, Arguments: "}"}); err != nil {
		t.Fatal(err)
	}
	if err := talk.close(); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(talk.output())
	if want := `{"steps":[{"type":"function_call","id":"a","name":"f","arguments":{"x":1}},{"type":"function_call","id":"b","name":"g","arguments":{}}]}`; err != nil || string(out) != want {
		t.Errorf("got %s, %v", out, err)
	}
	if want := `{"event_type":"step.delta","index":0,"delta":{"type":"arguments_delta","arguments":"{\"x\": 1"}}`; len(said) != 8 || said[3] != want {
		t.Errorf("said %d: %s", len(said), strings.Join(said, "\n"))
	}
	if err := say(genai.CallPiece{Index: 2, ID: "c", Name: "h", Arguments: "[1"}); err != nil {
		t.Fatal(err)
	}
	if err := talk.close(); err == nil || !strings.Contains(err.Error(), "called h with arguments that are not a JSON object") {
		t.Errorf("got %v", err)
	}
	if n := len(talk.output().Steps); n != 2 {
		t.Errorf("%d steps; a call without arguments is none", n)
	}
}
