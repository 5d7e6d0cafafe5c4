// Package openai is a back-end that speaks the OpenAI chat-completions protocol:
// vLLM, llama.cpp, Ollama, or a hosted service.
//
// What the protocol has no place for is refused by name, so that nothing that
// changes the meaning of a request is dropped in silence. Some things are passed
// over, because such servers have no notion of them: safetySettings, of
// thinkingConfig all but the level, and of speechConfig all but the voice.
package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// Config says how to reach a server. BaseURL must be set.
type Config struct {
	// BaseURL ends where the protocol's paths begin, such as http://127.0.0.1:8000/v1.
	BaseURL string
	// APIKey is sent as a bearer token unless empty.
	APIKey string
	// Timeout bounds a request, its further tries, waits and stream included; zero
	// means 10 min.
	Timeout time.Duration
	// MaxRetries bounds the further tries after 429, 5xx and failed connections;
	// negative means none, zero means 3.
	MaxRetries int
	// Transport carries the requests; nil means one of its own.
	Transport http.RoundTripper
}

const (
	// maxAnswer bounds an answer that is read whole.
	maxAnswer = 64 << 20
)

// Backend implements backend.Backend. Make one with New.
type Backend struct {
	base    string
	hosts   []string // Its address in messages: with its port, and without.
	key     string
	timeout time.Duration
	retries int
	client  *http.Client
}

// New returns a back-end; a BaseURL that is none is an error.
func New(c Config) (*Backend, error) {
	u, err := url.Parse(c.BaseURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("openai: the url %q must look like http://127.0.0.1:8000/v1", c.BaseURL)
	}
	b := &Backend{base: strings.TrimRight(c.BaseURL, "/"), hosts: []string{u.Host}, key: c.APIKey, timeout: c.Timeout, retries: c.MaxRetries}
	if name := u.Hostname(); strings.Contains(name, ".") { // Any other might be a word.
		b.hosts = append(b.hosts, name)
	}
	if b.timeout == 0 {
		b.timeout = 10 * time.Minute
	}
	if b.retries == 0 {
		b.retries = 3
	}
	transport := c.Transport
	if transport == nil {
		transport = backend.NewTransport()
	}
	b.client = &http.Client{Transport: transport}
	return b, nil
}

// Generate implements backend.Backend.
func (b *Backend) Generate(ctx context.Context, req *backend.Request) (*genai.GenerateContentResponse, error) {
	body, err := encode(req, false)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	resp, err := b.do(ctx, http.MethodPost, "/chat/completions", body, b.tries(req.Turn))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, backend.TransportError(ctx, err)
	}
	if len(data) > maxAnswer {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer is larger than 64 MiB"}
	}
	var c completion
	if err := c.read(data, "answer is not the JSON of a chat completion"); err != nil {
		return nil, b.clean(err)
	}
	return c.decode()
}

// Stream implements backend.Streamer.
func (b *Backend) Stream(ctx context.Context, req *backend.Request) iter.Seq2[*genai.GenerateContentResponse, error] {
	return func(yield func(*genai.GenerateContentResponse, error) bool) {
		body, err := encode(req, true)
		if err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := context.WithTimeout(ctx, b.timeout)
		defer cancel()
		resp, err := b.do(ctx, http.MethodPost, "/chat/completions", body, b.tries(req.Turn))
		if err != nil {
			yield(nil, err)
			return
		}
		defer resp.Body.Close()
		if err := readStream(resp.Body, req.Pieces, func(r *genai.GenerateContentResponse) bool { return yield(r, nil) }); err != nil {
			var known *backend.Error
			if !errors.As(err, &known) {
				err = backend.TransportError(ctx, err)
			}
			yield(nil, b.clean(err))
		}
	}
}

// Models implements backend.ModelLister.
func (b *Backend) Models(ctx context.Context) ([]genai.Model, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	resp, err := b.do(ctx, http.MethodGet, "/models", nil, b.retries)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list struct {
		Data []struct {
			ID          string `json:"id"`
			MaxModelLen int    `json:"max_model_len"` // vLLM tells it.
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&list); err != nil {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's list of models can't be read", Cause: err}
	}
	models := make([]genai.Model, len(list.Data))
	for i, m := range list.Data {
		models[i] = backend.Describe(m.ID)
		models[i].InputTokenLimit = m.MaxModelLen
	}
	return models, nil
}

// tries is how often a request is repeated here: rows of batches are not.
func (b *Backend) tries(t backend.Turn) int {
	if t.Batch != "" {
		return 0
	}
	return b.retries
}

// do sends a request until it is answered 2xx, can't be helped, or the tries are
// used up.
func (b *Backend) do(ctx context.Context, method, path string, body []byte, retries int) (*http.Response, error) {
	return backend.Retry(ctx, retries, nil, func() (*http.Response, error) { return b.once(ctx, method, path, body) })
}

func (b *Backend) once(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("openai: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if b.key != "" {
		req.Header.Set("Authorization", "Bearer "+b.key)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, backend.TransportError(ctx, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, b.clean(statusError(resp))
}
