package openai

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"ringback.dev/internal/backend"
)

// embeddingRequest is the body of POST /embeddings.
type embeddingRequest struct {
	Model          string `json:"model"`
	Input          string `json:"input"`
	Dimensions     *int   `json:"dimensions,omitempty"`
	EncodingFormat string `json:"encoding_format"`
}

// Embed implements backend.Embedder. The protocol knows no task types and no
// titles: a title is put before the text, a task type is passed over, as such
// servers do with models that need none.
func (b *Backend) Embed(ctx context.Context, req *backend.EmbedRequest) (*backend.Embedding, error) {
	text, err := backend.EmbedText(req.Body)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(embeddingRequest{Model: req.Model, Input: text, Dimensions: req.Body.OutputDimensionality, EncodingFormat: "float"})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	resp, err := b.do(ctx, http.MethodPost, "/embeddings", body, b.tries(req.Turn))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out struct {
		Data []struct {
			Embedding []float32 `json:"embedding"`
		} `json:"data"`
		Usage struct {
			PromptTokens int `json:"prompt_tokens"`
		} `json:"usage"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out); err != nil {
		if ctx.Err() != nil {
			return nil, backend.TransportError(ctx, err)
		}
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer is not the JSON of an embedding", Cause: err}
	}
	if len(out.Data) != 1 || len(out.Data[0].Embedding) == 0 {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer holds no embedding"}
	}
	if n := out.Usage.PromptTokens; n == 0 {
		out.Usage.PromptTokens = backend.Tokens(strings.TrimSpace(text))
	}
	return &backend.Embedding{Values: out.Data[0].Embedding, Tokens: out.Usage.PromptTokens}, nil
}
