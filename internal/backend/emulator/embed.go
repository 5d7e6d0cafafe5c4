package emulator

import (
	"context"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strings"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// dimensions is how long an emulated embedding is unless a length was asked for.
const dimensions = 64

// Embed implements backend.Embedder: each word stands for a fixed random direction,
// and a text for the normalised sum of its words. So texts with words in common
// are near each other, which is all that can be said of it.
func (b *Backend) Embed(ctx context.Context, req *backend.EmbedRequest) (*backend.Embedding, error) {
	text, err := backend.EmbedText(req.Body)
	if err != nil {
		return nil, err
	}
	rule := b.scenario.match(&backend.Request{Model: req.Model, Body: &genai.GenerateContentRequest{Contents: []genai.Content{*req.Body.Content}}})
	if err := rule.wait(ctx, rule.delay()); err != nil {
		return nil, err
	}
	if err := rule.fail(); err != nil {
		return nil, err
	}
	n := dimensions
	if d := req.Body.OutputDimensionality; d != nil {
		n = *d
	}
	sum := make([]float64, n)
	for _, word := range strings.Fields(strings.ToLower(text)) {
		h := fnv.New64a()
		h.Write([]byte(word))
		r := rand.New(rand.NewPCG(h.Sum64(), 1))
		for i := range sum {
			sum[i] += r.NormFloat64()
		}
	}
	length := 0.0
	for _, v := range sum {
		length += v * v
	}
	out := &backend.Embedding{Values: make([]float32, n), Tokens: backend.Tokens(text)}
	if length > 0 {
		for i, v := range sum {
			out.Values[i] = float32(v / math.Sqrt(length))
		}
	}
	return out, nil
}
