package genai

import "encoding/json"

// CreateInteraction is the body of POST /interactions (wire contract §5.1).
type CreateInteraction struct {
	Model                 string                 `json:"model,omitempty"`
	Agent                 string                 `json:"agent,omitempty"`
	Input                 json.RawMessage        `json:"input,omitempty"`
	SystemInstruction     string                 `json:"system_instruction,omitempty"`
	Tools                 []InteractionTool      `json:"tools,omitempty"`
	GenerationConfig      *InteractionGeneration `json:"generation_config,omitempty"`
	ResponseFormat        json.RawMessage        `json:"response_format,omitempty"`
	ResponseMimeType      string                 `json:"response_mime_type,omitempty"`
	ResponseModalities    []string               `json:"response_modalities,omitempty"`
	PreviousInteractionID string                 `json:"previous_interaction_id,omitempty"`
	Store                 *bool                  `json:"store,omitempty"`
	Background            bool                   `json:"background,omitempty"`
	Stream                bool                   `json:"stream,omitempty"`
	WebhookConfig         json.RawMessage        `json:"webhook_config,omitempty"`
	ServiceTier           string                 `json:"service_tier,omitempty"`
	Labels                map[string]string      `json:"labels,omitempty"`
	SafetySettings        []InteractionSafety    `json:"safety_settings,omitempty"`
	Environment           json.RawMessage        `json:"environment,omitempty"`
	ContinuationToken     string                 `json:"continuation_token,omitempty"`
}

// InteractionSafety is an entry of safety_settings, whose values are in lower case.
type InteractionSafety struct {
	Type      string `json:"type,omitempty"`
	Threshold string `json:"threshold,omitempty"`
	Method    string `json:"method,omitempty"`
}

// InteractionTool is a tool (§5.6). Only type "function" runs at the caller's.
type InteractionTool struct {
	Type        string          `json:"type"`
	Name        string          `json:"name,omitempty"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"`
}

// InteractionGeneration is generation_config (§5.7). ToolChoice is a mode or an object.
type InteractionGeneration struct {
	Temperature      *float64 `json:"temperature,omitempty"`
	TopP             *float64 `json:"top_p,omitempty"`
	MaxOutputTokens  *int     `json:"max_output_tokens,omitempty"`
	Seed             *int64   `json:"seed,omitempty"`
	StopSequences    []string `json:"stop_sequences,omitempty"`
	PresencePenalty  *float64 `json:"presence_penalty,omitempty"`
	FrequencyPenalty *float64 `json:"frequency_penalty,omitempty"`
	ThinkingLevel    string   `json:"thinking_level,omitempty"`
	// ThinkingSummaries is "auto" or "none".
	ThinkingSummaries string          `json:"thinking_summaries,omitempty"`
	ToolChoice        json.RawMessage `json:"tool_choice,omitempty"`
	SpeechConfig      json.RawMessage `json:"speech_config,omitempty"`
	ImageConfig       json.RawMessage `json:"image_config,omitempty"`
	VideoConfig       json.RawMessage `json:"video_config,omitempty"`
	Transcription     json.RawMessage `json:"transcription_config,omitempty"`
}

// AllowedTools is the object form of tool_choice.
type AllowedTools struct {
	AllowedTools struct {
		Mode  string   `json:"mode,omitempty"`
		Tools []string `json:"tools,omitempty"`
	} `json:"allowed_tools"`
}

// ResponseFormat is one entry of response_format. What follows Schema is of media.
type ResponseFormat struct {
	Type        string          `json:"type"`
	MimeType    string          `json:"mime_type,omitempty"`
	Schema      json.RawMessage `json:"schema,omitempty"`
	AspectRatio string          `json:"aspect_ratio,omitempty"`
	Duration    json.RawMessage `json:"duration,omitempty"` // Such as "8s".
	Resolution  string          `json:"resolution,omitempty"`
	Delivery    string          `json:"delivery,omitempty"` // "inline" or "uri".
	GCSURI      string          `json:"gcs_uri,omitempty"`
}

// Step is one entry of an interaction's input or output (§5.5.7).
type Step struct {
	Type string `json:"type"`
	// Content is left out if nil; a model_output that failed shows an empty list.
	Content   []StepContent   `json:"content,omitzero"`
	ID        string          `json:"id,omitempty"`
	CallID    string          `json:"call_id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	IsError   bool            `json:"is_error,omitempty"`
	Signature string          `json:"signature,omitempty"`
	Summary   []StepContent   `json:"summary,omitempty"`
	Error     *StepError      `json:"error,omitempty"`
}

// The step types that ringback knows.
const (
	StepUserInput      = "user_input"
	StepModelOutput    = "model_output"
	StepThought        = "thought"
	StepFunctionCall   = "function_call"
	StepFunctionResult = "function_result"
)

// StepContent is a piece of text or media; Data is base64.
type StepContent struct {
	Type     string `json:"type"`
	Text     string `json:"text,omitempty"`
	Data     string `json:"data,omitempty"`
	URI      string `json:"uri,omitempty"`
	MimeType string `json:"mime_type,omitempty"`
}

// StepError is the error of a model_output step; Code is a gRPC code number.
type StepError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// InteractionUsage counts tokens (§5.5.6).
type InteractionUsage struct {
	TotalTokens           int              `json:"total_tokens"`
	TotalInputTokens      int              `json:"total_input_tokens"`
	InputTokensByModality []ModalityTokens `json:"input_tokens_by_modality,omitempty"`
	TotalCachedTokens     int              `json:"total_cached_tokens"`
	TotalOutputTokens     int              `json:"total_output_tokens"`
	TotalToolUseTokens    int              `json:"total_tool_use_tokens"`
	TotalThoughtTokens    int              `json:"total_thought_tokens"`
}

// ModalityTokens counts the tokens of one modality, such as "text".
type ModalityTokens struct {
	Modality string `json:"modality"`
	Tokens   int    `json:"tokens"`
}

// InteractionOutput is what an interaction produced, as it is stored.
type InteractionOutput struct {
	Steps []Step            `json:"steps"`
	Usage *InteractionUsage `json:"usage,omitempty"`
}

// Interaction is the resource (§5.5). Times are to the second.
type Interaction struct {
	ID                    string             `json:"id"`
	Object                string             `json:"object"`
	Status                string             `json:"status"`
	Created               string             `json:"created"`
	Updated               string             `json:"updated"`
	Role                  string             `json:"role,omitempty"`
	Model                 string             `json:"model,omitempty"`
	ServiceTier           string             `json:"service_tier,omitempty"`
	PreviousInteractionID string             `json:"previous_interaction_id,omitempty"`
	Input                 []Step             `json:"input,omitempty"`
	Steps                 []Step             `json:"steps,omitempty"`
	Usage                 *InteractionUsage  `json:"usage,omitempty"`
	Errors                []InteractionError `json:"errors,omitempty"`
	Labels                map[string]string  `json:"labels,omitempty"`
	WebhookConfig         json.RawMessage    `json:"webhook_config,omitempty"`
	ContinuationToken     string             `json:"continuation_token,omitempty"`
}

// WebhookConfig names the receivers of one job's events (wire contract §3).
type WebhookConfig struct {
	URIs         []string        `json:"uris,omitempty"`
	UserMetadata json.RawMessage `json:"user_metadata,omitempty"`
}

// InteractionError is an entry of errors, and the body of error answers (§5.10).
type InteractionError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// InteractionSpec is a validated interaction as it rests in Job.Spec: the wire's
// request with its input as a list of steps and its answer format resolved.
type InteractionSpec struct {
	CreateInteraction
	// Steps is the input.
	Steps []Step `json:"steps"`
	// JSON asks for an answer in JSON, which satisfies Schema if there is one.
	JSON   bool            `json:"json,omitempty"`
	Schema json.RawMessage `json:"schema,omitempty"`
	// Video, if not nil, asks for a video instead of a text.
	Video *InteractionVideo `json:"video,omitempty"`
}

// InteractionVideo is a video that an interaction is to make. Inline puts it into
// the answer.
type InteractionVideo struct {
	VideoSpec
	Inline bool `json:"inline,omitempty"`
}
