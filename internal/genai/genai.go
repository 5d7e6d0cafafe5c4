// Package genai holds the JSON shapes of the Gemini API, as the official SDKs
// send and read them. It has no behaviour beyond reading and writing them.
//
// The classic surface (models, generateContent) is in this file, the
// interactions in interaction.go. Field names and meanings: wire contract §5
// and §8.
//
// The classic shapes keep the members that they do not know in Unknown, so that
// what Google adds tomorrow passes through a back-end that speaks the Gemini API,
// both ways (§8). Such shapes are written by go-json-experiment's v1 (Go 1.27's
// encoding/json): Go 1.26's own takes Unknown for a member of that name. "embed"
// makes it what it is, "omitempty" keeps the latter silent when it is empty.
package genai

import (
	"encoding/json"

	"github.com/go-json-experiment/json/jsontext"
)

// GenerateContentRequest is the body of generateContent (wire contract §8.2).
type GenerateContentRequest struct {
	Model             string            `json:"model,omitempty"`
	Contents          []Content         `json:"contents,omitempty"`
	SystemInstruction *Content          `json:"systemInstruction,omitempty"`
	Tools             []Tool            `json:"tools,omitempty"`
	ToolConfig        *ToolConfig       `json:"toolConfig,omitempty"`
	SafetySettings    []json.RawMessage `json:"safetySettings,omitempty"`
	GenerationConfig  *GenerationConfig `json:"generationConfig,omitempty"`
	CachedContent     string            `json:"cachedContent,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// Content is one turn of a conversation. An empty role means "user".
type Content struct {
	Role  string `json:"role,omitempty"`
	Parts []Part `json:"parts,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// Part is a piece of a turn; one of its fields says what it is.
type Part struct {
	Text                *string           `json:"text,omitempty"`
	Thought             bool              `json:"thought,omitempty"`
	ThoughtSignature    string            `json:"thoughtSignature,omitempty"`
	InlineData          *Blob             `json:"inlineData,omitempty"`
	FileData            *FileData         `json:"fileData,omitempty"`
	FunctionCall        *FunctionCall     `json:"functionCall,omitempty"`
	FunctionResponse    *FunctionResponse `json:"functionResponse,omitempty"`
	ExecutableCode      json.RawMessage   `json:"executableCode,omitempty"`
	CodeExecutionResult json.RawMessage   `json:"codeExecutionResult,omitempty"`

	// CallPiece is never on the wire; see backend.Request.Pieces.
	CallPiece *CallPiece `json:"-"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// TextPart is a part of plain text.
func TextPart(s string) Part { return Part{Text: &s} }

// Blob is data within the request; Data is base64.
type Blob struct {
	MimeType string `json:"mimeType,omitempty"`
	Data     string `json:"data,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// FileData points to a file.
type FileData struct {
	MimeType string `json:"mimeType,omitempty"`
	FileURI  string `json:"fileUri,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// FunctionCall is the model's wish to have a function called. Args is an object.
type FunctionCall struct {
	ID   string          `json:"id,omitempty"`
	Name string          `json:"name"`
	Args json.RawMessage `json:"args,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// CallPiece is a piece of a function call that a stream is still bringing. Index
// counts the calls of the answer from 0; ID and Name are on the first piece of a
// call. The Arguments of all its pieces together are the text of a JSON object.
type CallPiece struct {
	Index     int
	ID, Name  string
	Arguments string
}

// FunctionResponse is the caller's answer to a FunctionCall.
type FunctionResponse struct {
	ID       string          `json:"id,omitempty"`
	Name     string          `json:"name"`
	Response json.RawMessage `json:"response,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// Tool offers functions, or one of the tools that Google's servers run. Those are
// known by name, so that a back-end without them can refuse them.
type Tool struct {
	FunctionDeclarations []FunctionDeclaration `json:"functionDeclarations,omitempty"`
	GoogleSearch         json.RawMessage       `json:"googleSearch,omitempty"`
	CodeExecution        json.RawMessage       `json:"codeExecution,omitempty"`
	URLContext           json.RawMessage       `json:"urlContext,omitempty"`

	GoogleSearchRetrieval json.RawMessage `json:"googleSearchRetrieval,omitempty"`
	GoogleMaps            json.RawMessage `json:"googleMaps,omitempty"`
	FileSearch            json.RawMessage `json:"fileSearch,omitempty"`
	ComputerUse           json.RawMessage `json:"computerUse,omitempty"`
	MCPServers            json.RawMessage `json:"mcpServers,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// FunctionDeclaration describes a function. Parameters is in the OpenAPI-like
// dialect with types in capitals, ParametersJSONSchema in ordinary JSON schema.
type FunctionDeclaration struct {
	Name                 string          `json:"name"`
	Description          string          `json:"description,omitempty"`
	Parameters           json.RawMessage `json:"parameters,omitempty"`
	ParametersJSONSchema json.RawMessage `json:"parametersJsonSchema,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// Schema returns the parameters as ordinary JSON schema, nil if there are none.
func (f *FunctionDeclaration) Schema() (json.RawMessage, error) {
	if f.ParametersJSONSchema != nil {
		return f.ParametersJSONSchema, nil
	}
	return ToJSONSchema(f.Parameters)
}

// ToolConfig says how functions may be called.
type ToolConfig struct {
	FunctionCallingConfig *FunctionCallingConfig `json:"functionCallingConfig,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// FunctionCallingConfig has a mode of AUTO, ANY, NONE or VALIDATED.
type FunctionCallingConfig struct {
	Mode                 string   `json:"mode,omitempty"`
	AllowedFunctionNames []string `json:"allowedFunctionNames,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// GenerationConfig holds the model's settings; nil means the back-end's default.
type GenerationConfig struct {
	Temperature        *float64        `json:"temperature,omitempty"`
	TopP               *float64        `json:"topP,omitempty"`
	TopK               *float64        `json:"topK,omitempty"`
	CandidateCount     *int            `json:"candidateCount,omitempty"`
	MaxOutputTokens    *int            `json:"maxOutputTokens,omitempty"`
	StopSequences      []string        `json:"stopSequences,omitempty"`
	Seed               *int64          `json:"seed,omitempty"`
	PresencePenalty    *float64        `json:"presencePenalty,omitempty"`
	FrequencyPenalty   *float64        `json:"frequencyPenalty,omitempty"`
	ResponseMimeType   string          `json:"responseMimeType,omitempty"`
	ResponseSchema     json.RawMessage `json:"responseSchema,omitempty"`
	ResponseJSONSchema json.RawMessage `json:"responseJsonSchema,omitempty"`
	ResponseModalities []string        `json:"responseModalities,omitempty"`
	ThinkingConfig     json.RawMessage `json:"thinkingConfig,omitempty"`
	SpeechConfig       json.RawMessage `json:"speechConfig,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// JSONMode reports whether the answer must be JSON, and its schema if one was given.
func (g *GenerationConfig) JSONMode() (bool, json.RawMessage, error) {
	if g == nil || (g.ResponseMimeType != "application/json" && g.ResponseSchema == nil && g.ResponseJSONSchema == nil) {
		return false, nil, nil
	}
	if g.ResponseJSONSchema != nil {
		return true, g.ResponseJSONSchema, nil
	}
	schema, err := ToJSONSchema(g.ResponseSchema)
	return true, schema, err
}

// GenerateContentResponse is the answer, or one chunk of it (§8.3, §8.4).
type GenerateContentResponse struct {
	Candidates     []Candidate     `json:"candidates,omitempty"`
	PromptFeedback *PromptFeedback `json:"promptFeedback,omitempty"`
	UsageMetadata  *UsageMetadata  `json:"usageMetadata,omitempty"`
	ModelVersion   string          `json:"modelVersion,omitempty"`
	ResponseID     string          `json:"responseId,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// Candidate is one of the answers.
type Candidate struct {
	Content       *Content `json:"content,omitempty"`
	FinishReason  string   `json:"finishReason,omitempty"`
	FinishMessage string   `json:"finishMessage,omitempty"`
	Index         int      `json:"index"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// The reasons for the end of an answer that ringback itself gives.
const (
	FinishStop      = "STOP"
	FinishMaxTokens = "MAX_TOKENS"
	FinishSafety    = "SAFETY"
	FinishOther     = "OTHER"
)

// PromptFeedback says that the prompt was refused.
type PromptFeedback struct {
	BlockReason string `json:"blockReason,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// UsageMetadata counts tokens.
type UsageMetadata struct {
	PromptTokenCount        int             `json:"promptTokenCount"`
	CandidatesTokenCount    int             `json:"candidatesTokenCount,omitempty"`
	TotalTokenCount         int             `json:"totalTokenCount"`
	ThoughtsTokenCount      int             `json:"thoughtsTokenCount,omitempty"`
	CachedContentTokenCount int             `json:"cachedContentTokenCount,omitempty"`
	PromptTokensDetails     []ModalityCount `json:"promptTokensDetails,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// ModalityCount counts the tokens of one modality, such as TEXT.
type ModalityCount struct {
	Modality   string `json:"modality"`
	TokenCount int    `json:"tokenCount"`
}

// CountTokensRequest holds either contents or a whole request (§8.5).
type CountTokensRequest struct {
	Contents               []Content               `json:"contents,omitempty"`
	GenerateContentRequest *GenerateContentRequest `json:"generateContentRequest,omitempty"`
}

// CountTokensResponse is the answer to countTokens.
type CountTokensResponse struct {
	TotalTokens         int             `json:"totalTokens"`
	PromptTokensDetails []ModalityCount `json:"promptTokensDetails,omitempty"`
}

// EmbedContentRequest asks for an embedding (§8.6).
type EmbedContentRequest struct {
	Model                string   `json:"model,omitempty"`
	Content              *Content `json:"content,omitempty"`
	TaskType             string   `json:"taskType,omitempty"`
	Title                string   `json:"title,omitempty"`
	OutputDimensionality *int     `json:"outputDimensionality,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// BatchEmbedContentsRequest asks for several at once.
type BatchEmbedContentsRequest struct {
	Requests []EmbedContentRequest `json:"requests,omitempty"`
}

// ContentEmbedding is a vector.
type ContentEmbedding struct {
	Values []float32 `json:"values"`
}

// EmbedContentResponse is the answer to embedContent. TokenCount is of batches
// only, where it is a string (§4.5).
type EmbedContentResponse struct {
	TokenCount Int64            `json:"tokenCount,omitempty"`
	Embedding  ContentEmbedding `json:"embedding"`
}

// BatchEmbedContentsResponse is the answer to batchEmbedContents.
type BatchEmbedContentsResponse struct {
	Embeddings []ContentEmbedding `json:"embeddings"`
}

// Model describes a model (§8.1). Name is "models/…".
type Model struct {
	Name                       string   `json:"name"`
	BaseModelID                string   `json:"baseModelId,omitempty"`
	Version                    string   `json:"version,omitempty"`
	DisplayName                string   `json:"displayName,omitempty"`
	Description                string   `json:"description,omitempty"`
	InputTokenLimit            int      `json:"inputTokenLimit,omitempty"`
	OutputTokenLimit           int      `json:"outputTokenLimit,omitempty"`
	SupportedGenerationMethods []string `json:"supportedGenerationMethods,omitempty"`

	Unknown jsontext.Value `json:",embed,omitempty"`
}

// Status is the error body of the classic surface (§9.2).
type Status struct {
	Error StatusError `json:"error"`
}

// StatusError is a google.rpc.Status in JSON; Code is the HTTP status.
type StatusError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Status  string `json:"status"`
	Details []any  `json:"details,omitempty"`
}
