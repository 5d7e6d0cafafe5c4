package emulator

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"go.yaml.in/yaml/v3"

	"ringback.dev/internal/backend"
)

// Scenario scripts the emulator: the first rule that matches a request decides.
type Scenario struct {
	Rules []*Rule `yaml:"rules"`
}

// Rule says what happens to the requests that match it. At most one of Text,
// FunctionCall, FunctionCalls, Filtered, Error and RateLimit is set; Delay goes with
// any. Rules with Text or calls are not for videos, those with Filtered only for them.
type Rule struct {
	Match Match  `yaml:"match"`
	Text  string `yaml:"text"`
	// Thought comes before a text or calls.
	Thought       string         `yaml:"thought"`
	FunctionCall  *FunctionCall  `yaml:"function_call"`
	FunctionCalls []FunctionCall `yaml:"function_calls"`
	Filtered      *Filtered      `yaml:"filtered"`
	Error         *Failure       `yaml:"error"`
	RateLimit     *RateLimit     `yaml:"rate_limit"`
	FinishReason  string         `yaml:"finish_reason"`
	// Delay is how long the answer takes, ChunkDelay the time between the chunks
	// of a stream.
	Delay      time.Duration `yaml:"delay"`
	ChunkDelay time.Duration `yaml:"chunk_delay"`

	prompt  *regexp.Regexp
	limited atomic.Int64
}

// Match holds the conditions of a rule, all of which must hold; an empty one
// always does.
type Match struct {
	// Model is a name or a pattern of path.Match.
	Model string `yaml:"model"`
	// Prompt is a part of the last turn's text, or a regular expression between
	// slashes.
	Prompt string `yaml:"prompt"`
}

// calls are the calls that a rule scripts.
func (r *Rule) calls() []FunctionCall {
	switch {
	case r == nil:
		return nil
	case r.FunctionCall != nil:
		return []FunctionCall{*r.FunctionCall}
	}
	return r.FunctionCalls
}

// FunctionCall is a scripted call. It is made only while the last turn brings no
// function's result, so that a conversation comes to its end.
type FunctionCall struct {
	Name string         `yaml:"name"`
	Args map[string]any `yaml:"args"`
}

// Filtered holds videos back as a model does for safety: Count of them, all if it
// is 0.
type Filtered struct {
	Count   int      `yaml:"count"`
	Reasons []string `yaml:"reasons"`
}

// Failure is a scripted error.
type Failure struct {
	Kind    backend.Kind `yaml:"kind"`
	Message string       `yaml:"message"`
}

// RateLimit refuses the first Times requests of the process.
type RateLimit struct {
	RetryAfter time.Duration `yaml:"retry_after"`
	Times      int64         `yaml:"times"`
}

// LoadScenario reads a scenario file.
func LoadScenario(file string) (*Scenario, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open scenario: %w", err)
	}
	defer f.Close()
	s, err := ReadScenario(f)
	if err != nil {
		return nil, fmt.Errorf("scenario %s: %w", file, err)
	}
	return s, nil
}

// ReadScenario reads a scenario in YAML. Unknown keys are errors.
func ReadScenario(r io.Reader) (*Scenario, error) {
	d := yaml.NewDecoder(r)
	d.KnownFields(true)
	s := &Scenario{}
	if err := d.Decode(s); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for i, rule := range s.Rules {
		if rule == nil {
			return nil, fmt.Errorf("rule %d is empty", i+1)
		}
		if err := rule.check(); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return s, nil
}

func (r *Rule) check() error {
	if _, err := path.Match(r.Match.Model, ""); err != nil {
		return fmt.Errorf("match.model: %q is not a pattern", r.Match.Model)
	}
	if p := r.Match.Prompt; len(p) > 1 && p[0] == '/' && p[len(p)-1] == '/' {
		var err error
		if r.prompt, err = regexp.Compile(p[1 : len(p)-1]); err != nil {
			return fmt.Errorf("match.prompt: %w", err)
		}
	}
	set := 0
	for _, is := range []bool{r.Text != "", r.FunctionCall != nil, r.FunctionCalls != nil, r.Filtered != nil, r.Error != nil, r.RateLimit != nil} {
		if is {
			set++
		}
	}
	if set > 1 {
		return errors.New("only one of text, function_call, function_calls, filtered, error and rate_limit can be given")
	}
	if r.Filtered != nil && r.Filtered.Count < 0 {
		return fmt.Errorf("filtered.count: %d is negative", r.Filtered.Count)
	}
	if r.FunctionCall != nil && r.FunctionCall.Name == "" {
		return errors.New("function_call.name is missing")
	}
	for i := range r.FunctionCalls {
		if r.FunctionCalls[i].Name == "" {
			return fmt.Errorf("function_calls[%d].name is missing", i)
		}
	}
	if r.Error != nil {
		switch r.Error.Kind {
		case backend.InvalidRequest, backend.ModelNotFound, backend.RateLimited, backend.OutOfBudget, backend.Unauthorized, backend.Unavailable, backend.Timeout, backend.Internal:
		default:
			return fmt.Errorf("error.kind: %q is none of invalid_request, model_not_found, rate_limited, out_of_budget, unauthorized, unavailable, timeout, internal", r.Error.Kind)
		}
	}
	return nil
}

// match returns the first rule that fits, nil if there is none.
func (s *Scenario) match(req *backend.Request) *Rule {
	last := lastParts(req.Body)
	answered := false
	for _, p := range last {
		answered = answered || p.FunctionResponse != nil
	}
	return s.first(req.Model, textOf(last), func(r *Rule) bool { return r.Filtered == nil && (len(r.calls()) == 0 || !answered) })
}

// matchVideo does the same for a request of videos.
func (s *Scenario) matchVideo(req *backend.VideoRequest) *Rule {
	return s.first(req.Model, req.Prompt, func(r *Rule) bool { return r.Text == "" && len(r.calls()) == 0 })
}

// first returns the first rule whose conditions hold and which suits.
func (s *Scenario) first(model, prompt string, suits func(*Rule) bool) *Rule {
	if s == nil {
		return nil
	}
	for _, r := range s.Rules {
		if r.Match.Model != "" {
			if ok, _ := path.Match(r.Match.Model, model); !ok {
				continue
			}
		}
		if r.prompt != nil && !r.prompt.MatchString(prompt) {
			continue
		}
		if r.prompt == nil && !strings.Contains(prompt, r.Match.Prompt) {
			continue
		}
		if suits(r) {
			return r
		}
	}
	return nil
}

// fail returns the error that a rule scripts, if any.
func (r *Rule) fail() error {
	switch {
	case r == nil:
		return nil
	case r.Error != nil:
		message := r.Error.Message
		if message == "" {
			message = "the emulator was told to fail"
		}
		return &backend.Error{Kind: r.Error.Kind, Message: message}
	case r.RateLimit != nil && r.limited.Add(1) <= r.RateLimit.Times:
		return &backend.Error{Kind: backend.RateLimited, Message: "the emulator was told to limit the rate", RetryAfter: r.RateLimit.RetryAfter}
	}
	return nil
}

func (r *Rule) delay() time.Duration {
	if r == nil {
		return 0
	}
	return r.Delay
}

func (r *Rule) chunkDelay() time.Duration {
	if r == nil {
		return 0
	}
	return r.ChunkDelay
}
