// Package gemini is a back-end that speaks the Gemini API itself: Google's, or
// another ringback's. Requests and answers have its shape already, so they pass
// through whole, with what package genai does not know of them. Beside answers,
// streams and embeddings it makes videos, and takes whole batches.
//
// The API key travels in a header only, to the configured host only. It is never in
// an address, an error or a log.
package gemini

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

	next "github.com/go-json-experiment/json/v1"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// GoogleURL is where Google serves the API.
const GoogleURL = "https://generativelanguage.googleapis.com"

// Config says how to reach the API. APIKey must be set.
type Config struct {
	// URL is the address before /v1beta; empty means GoogleURL.
	URL string
	// APIKey is sent in the header x-goog-api-key.
	APIKey string
	// Timeout bounds a request, its further tries, waits and stream included; zero
	// means 10 min. Of uploads and downloads it bounds each piece.
	Timeout time.Duration
	// MaxRetries bounds the further tries after 429, 5xx and failed connections;
	// negative means none, zero means 3.
	MaxRetries int
	// Transport carries the requests; nil means one of its own.
	Transport http.RoundTripper
}

const (
	// maxAnswer bounds an answer that is read whole, and an event of a stream: images
	// are within them.
	maxAnswer = 64 << 20
	// look bounds a question how far something is: it is asked again.
	look = time.Minute
	// version is the part of the API's paths that the SDKs use by default.
	version = "/v1beta/"
)

// Backend implements backend.Backend and all optional abilities. Make one with New.
type Backend struct {
	base    string // Without a slash at its end.
	host    string // To be left out of messages; empty for Google's.
	key     string
	timeout time.Duration
	retries int
	client  *http.Client
}

var (
	_ backend.Streamer      = (*Backend)(nil)
	_ backend.TokenCounter  = (*Backend)(nil)
	_ backend.ModelLister   = (*Backend)(nil)
	_ backend.Embedder      = (*Backend)(nil)
	_ backend.VideoMaker    = (*Backend)(nil)
	_ backend.BatchUpstream = (*Backend)(nil)
)

// New returns a back-end; an address that is none, or no key, is an error.
func New(c Config) (*Backend, error) {
	if c.URL == "" {
		c.URL = GoogleURL
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("gemini: the url must look like %s", GoogleURL) // It may hold a password.
	}
	if c.APIKey == "" {
		return nil, errors.New("gemini: an API key is required")
	}
	b := &Backend{base: strings.TrimSuffix(strings.TrimRight(c.URL, "/"), "/v1beta"), key: c.APIKey, timeout: c.Timeout, retries: c.MaxRetries}
	if b.base != GoogleURL {
		b.host = u.Host
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
	b.client = &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > 5 {
			return errors.New("too many redirects")
		}
		if req.URL.Host != u.Host || req.URL.Scheme != u.Scheme {
			req.Header.Del(keyHeader) // Such as to where the bytes of a video are.
		}
		return nil
	}}
	return b, nil
}

const keyHeader = "X-Goog-Api-Key"

// Generate implements backend.Backend.
func (b *Backend) Generate(ctx context.Context, req *backend.Request) (*genai.GenerateContentResponse, error) {
	path, body, err := b.generation(req, "generateContent")
	if err != nil {
		return nil, err
	}
	var answer genai.GenerateContentResponse
	if err := b.call(ctx, &request{method: http.MethodPost, path: path, body: body, retries: b.tries(req.Turn)}, &answer); err != nil {
		return nil, err
	}
	if len(answer.Candidates) == 0 && answer.PromptFeedback == nil {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer has no candidates"}
	}
	return &answer, nil
}

// Stream implements backend.Streamer.
func (b *Backend) Stream(ctx context.Context, req *backend.Request) iter.Seq2[*genai.GenerateContentResponse, error] {
	return func(yield func(*genai.GenerateContentResponse, error) bool) {
		path, body, err := b.generation(req, "streamGenerateContent?alt=sse")
		if err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := context.WithTimeout(ctx, b.timeout)
		defer cancel()
		resp, err := b.do(ctx, &request{method: http.MethodPost, path: path, body: body, retries: b.tries(req.Turn)})
		if err != nil {
			yield(nil, err)
			return
		}
		defer resp.Body.Close()
		if err := b.readStream(resp.Body, func(r *genai.GenerateContentResponse) bool { return yield(r, nil) }); err != nil {
			var known *backend.Error
			if !errors.As(err, &known) {
				err = backend.TransportError(ctx, err)
			}
			yield(nil, err)
		}
	}
}

// CountTokens implements backend.TokenCounter.
func (b *Backend) CountTokens(ctx context.Context, req *backend.Request) (int, error) {
	path, err := modelPath(req.Model, "countTokens")
	if err != nil {
		return 0, err
	}
	whole := *req.Body
	whole.Model = resource(req.Model)
	body, err := encode(genai.CountTokensRequest{GenerateContentRequest: &whole})
	if err != nil {
		return 0, err
	}
	var answer genai.CountTokensResponse
	err = b.call(ctx, &request{method: http.MethodPost, path: path, body: body, retries: b.retries}, &answer)
	return answer.TotalTokens, err
}

// Models implements backend.ModelLister.
func (b *Backend) Models(ctx context.Context) ([]genai.Model, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var all []genai.Model
	err := b.pages(ctx, "models?pageSize=1000", func(page []byte) (bool, error) {
		var list struct {
			Models []genai.Model `json:"models"`
		}
		err := next.Unmarshal(page, &list)
		all = append(all, list.Models...)
		return true, err
	})
	return all, err
}

// Embed implements backend.Embedder, by the method that the SDKs call even for one
// text (wire contract §8.6).
func (b *Backend) Embed(ctx context.Context, req *backend.EmbedRequest) (*backend.Embedding, error) {
	path, err := modelPath(req.Model, "batchEmbedContents")
	if err != nil {
		return nil, err
	}
	one := *req.Body
	one.Model = resource(req.Model)
	body, err := encode(genai.BatchEmbedContentsRequest{Requests: []genai.EmbedContentRequest{one}})
	if err != nil {
		return nil, err
	}
	var answer struct {
		genai.BatchEmbedContentsResponse
		UsageMetadata struct {
			PromptTokenCount int `json:"promptTokenCount"`
		} `json:"usageMetadata"`
	}
	if err := b.call(ctx, &request{method: http.MethodPost, path: path, body: body, retries: b.tries(req.Turn)}, &answer); err != nil {
		return nil, err
	}
	if len(answer.Embeddings) != 1 || len(answer.Embeddings[0].Values) == 0 {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer holds no embedding"}
	}
	tokens := answer.UsageMetadata.PromptTokenCount
	if tokens == 0 && one.Content != nil { // Not every model tells.
		tokens = backend.EstimateTokens(&genai.GenerateContentRequest{Contents: []genai.Content{*one.Content}})
	}
	return &backend.Embedding{Values: answer.Embeddings[0].Values, Tokens: tokens}, nil
}

// generation is the path and the body of a generation.
func (b *Backend) generation(req *backend.Request, verb string) (path string, body []byte, err error) {
	if path, err = modelPath(req.Model, verb); err != nil {
		return "", nil, err
	}
	own := *req.Body
	own.Model = "" // The path says it; the client may know it by another name.
	body, err = encode(&own)
	return path, body, err
}

// resource is a model's name as the API has it.
func resource(model string) string {
	if strings.HasPrefix(model, "models/") || strings.HasPrefix(model, "tunedModels/") {
		return model
	}
	return "models/" + model
}

// modelPath is the path of a model's method. Clients choose names, so a name must
// not lead elsewhere.
func modelPath(model, verb string) (string, error) {
	segments := strings.Split(resource(model), "/")
	for i, s := range segments {
		if s == "" || s == "." || s == ".." {
			return "", &backend.Error{Kind: backend.ModelNotFound, Message: fmt.Sprintf("%q is not a model's name", model)}
		}
		segments[i] = url.PathEscape(s)
	}
	return strings.Join(segments, "/") + ":" + verb, nil
}

// encode prints a body: with what package genai does not know (its comment), and
// without the detours that are meant for HTML.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := next.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("gemini: %w", err)
	}
	return b.Bytes(), nil
}

// tries is how often a request is repeated here: rows of batches are not.
func (b *Backend) tries(t backend.Turn) int {
	if t.Batch != "" {
		return 0
	}
	return max(b.retries, 0)
}

// request is one call of the API.
type request struct {
	method string
	// path follows after the version; with a slash at its beginning it follows after
	// the host.
	path   string
	body   []byte
	header http.Header
	// timeout bounds it with its further tries; zero means the configured one.
	timeout time.Duration
	// retries is how often it is tried again. With once it is tried again only if an
	// answer has put it off: after any other failure it may have been done.
	retries int
	once    bool
}

// call makes a request and decodes its answer.
func (b *Backend) call(ctx context.Context, r *request, into any) error {
	timeout := b.timeout
	if r.timeout > 0 {
		timeout = min(timeout, r.timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	data, err := b.read(ctx, r)
	if err != nil {
		return err
	}
	if err := next.Unmarshal(data, into); err != nil {
		return &backend.Error{Kind: backend.Internal, Message: "the back-end's answer is not the JSON of the Gemini API", Cause: err}
	}
	return nil
}

// read makes a request and reads its answer whole.
func (b *Backend) read(ctx context.Context, r *request) ([]byte, error) {
	resp, err := b.do(ctx, r)
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
	return data, nil
}

// maxPages bounds a list that is read whole.
const maxPages = 1000

// pages reads a list until its end, or until f returns false.
func (b *Backend) pages(ctx context.Context, path string, f func(page []byte) (bool, error)) error {
	token := ""
	for range maxPages {
		more := path
		if token != "" {
			more += "&pageToken=" + url.QueryEscape(token)
		}
		data, err := b.read(ctx, &request{method: http.MethodGet, path: more, retries: b.retries})
		if err != nil {
			return err
		}
		var list struct {
			NextPageToken string `json:"nextPageToken"`
		}
		err = json.Unmarshal(data, &list)
		goOn := false
		if err == nil {
			goOn, err = f(data)
		}
		if err != nil {
			return &backend.Error{Kind: backend.Internal, Message: "the back-end's list can't be read", Cause: err}
		}
		if token = list.NextPageToken; token == "" || !goOn {
			return nil
		}
	}
	return nil
}

// do sends a request until it is answered 2xx, can't be helped, or the tries are
// used up.
func (b *Backend) do(ctx context.Context, r *request) (*http.Response, error) {
	again := backend.Passing
	if r.once {
		again = func(err error) bool { return isStatus(err, http.StatusTooManyRequests, http.StatusServiceUnavailable) }
	}
	return backend.Retry(ctx, r.retries, again, func() (*http.Response, error) { return b.send(ctx, r) })
}

// send sends a request once.
func (b *Backend) send(ctx context.Context, r *request) (*http.Response, error) {
	address := b.base + r.path
	if !strings.HasPrefix(r.path, "/") {
		address = b.base + version + r.path
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(r.body))
	if err != nil {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the request to the back-end can't be made"} // The error names the address.
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	if r.body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set(keyHeader, b.key)
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, backend.TransportError(ctx, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, b.statusError(resp)
}
