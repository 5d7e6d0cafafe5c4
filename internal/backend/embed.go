package backend

import (
	"context"
	"fmt"
	"strings"

	"ringback.dev/internal/genai"
)

// EmbedRequest asks for the embedding of one content.
type EmbedRequest struct {
	Model string
	Body  *genai.EmbedContentRequest
	Turn  Turn
}

// Embedding is a vector, and how many tokens its content had.
type Embedding struct {
	Values []float32
	Tokens int
}

// Embedder is a back-end that makes embeddings. Errors are those of Backend.
type Embedder interface {
	Embed(ctx context.Context, req *EmbedRequest) (*Embedding, error)
}

// EmbedText is the text to embed: the title, then the parts. Other parts than text
// are refused.
func EmbedText(req *genai.EmbedContentRequest) (string, error) {
	var texts []string
	if req.Title != "" {
		texts = append(texts, req.Title)
	}
	if req.Content == nil || len(req.Content.Parts) == 0 {
		return "", &Error{Kind: InvalidRequest, Message: "content.parts: it is required and must not be empty"}
	}
	for i, p := range req.Content.Parts {
		if p.Text == nil {
			return "", &Error{Kind: InvalidRequest, Message: fmt.Sprintf("content.parts[%d]: only text can be embedded here", i)}
		}
		texts = append(texts, *p.Text)
	}
	if d := req.OutputDimensionality; d != nil && (*d < 1 || *d > MaxDimensions) {
		return "", &Error{Kind: InvalidRequest, Message: fmt.Sprintf("outputDimensionality: %d is not between 1 and %d", *d, MaxDimensions)}
	}
	return strings.Join(texts, "\n"), nil
}

// MaxDimensions bounds how long a vector can be asked for.
const MaxDimensions = 8192
