package openai

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// chatRequest is the body of POST /chat/completions.
type chatRequest struct {
	Model            string          `json:"model"`
	Messages         []message       `json:"messages"`
	Temperature      *float64        `json:"temperature,omitempty"`
	TopP             *float64        `json:"top_p,omitempty"`
	TopK             *float64        `json:"top_k,omitempty"` // Not OpenAI's, but llama.cpp and vLLM know it.
	N                *int            `json:"n,omitempty"`
	MaxTokens        *int            `json:"max_tokens,omitempty"`
	Stop             []string        `json:"stop,omitempty"`
	Seed             *int64          `json:"seed,omitempty"`
	PresencePenalty  *float64        `json:"presence_penalty,omitempty"`
	FrequencyPenalty *float64        `json:"frequency_penalty,omitempty"`
	ReasoningEffort  string          `json:"reasoning_effort,omitempty"`
	Tools            []tool          `json:"tools,omitempty"`
	ToolChoice       any             `json:"tool_choice,omitempty"`
	ResponseFormat   *responseFormat `json:"response_format,omitempty"`
	Modalities       []string        `json:"modalities,omitempty"`
	Audio            *speech         `json:"audio,omitempty"`
	Stream           bool            `json:"stream,omitempty"`
	StreamOptions    *streamOptions  `json:"stream_options,omitempty"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// message is a turn. Content is a string, a list of contentPart, or nil.
type message struct {
	Role       string     `json:"role"`
	Content    any        `json:"content"`
	ToolCalls  []toolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
}

// speech says how an answer shall sound.
type speech struct {
	Voice  string `json:"voice"`
	Format string `json:"format"`
}

type tool struct {
	Type     string   `json:"type"`
	Function function `json:"function"`
}

type function struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"`
}

// toolCall is a call in an answer or in the history; Index counts them in a stream.
type toolCall struct {
	Index    int          `json:"index,omitempty"`
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"`
	Function functionCall `json:"function"`
}

// functionCall has its arguments as the text of a JSON object.
type functionCall struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

type responseFormat struct {
	Type       string      `json:"type"`
	JSONSchema *jsonSchema `json:"json_schema,omitempty"`
}

// jsonSchema has Strict where OpenAI would take it; other servers hold to a schema
// without being asked.
type jsonSchema struct {
	Name   string          `json:"name"`
	Schema json.RawMessage `json:"schema"`
	Strict bool            `json:"strict,omitempty"`
}

const unsupported = " is not supported by this model's back-end (OpenAI-compatible chat completions)"

// refuse says which field can't be served by such a server.
func refuse(format string, args ...any) error { return invalid(format+unsupported, args...) }

// encode translates a request.
func encode(req *backend.Request, stream bool) ([]byte, error) {
	in := req.Body
	if in.CachedContent != "" {
		return nil, refuse("cachedContent")
	}
	if g := in.GenerationConfig; stream && g != nil && g.CandidateCount != nil && *g.CandidateCount > 1 {
		return nil, refuse("a stream with generationConfig.candidateCount above 1")
	}
	out := chatRequest{Model: req.Model, Stream: stream}
	if stream {
		out.StreamOptions = &streamOptions{IncludeUsage: true}
	}
	if s := in.SystemInstruction; s != nil {
		var texts []string
		for i := range s.Parts {
			if s.Parts[i].Text == nil {
				return nil, refuse("a systemInstruction with anything but text")
			}
			texts = append(texts, *s.Parts[i].Text)
		}
		out.Messages = append(out.Messages, message{Role: "system", Content: strings.Join(texts, "\n")})
	}
	var ids callIDs
	for i := range in.Contents {
		messages, err := encodeTurn(&in.Contents[i], i, &ids)
		if err != nil {
			return nil, err
		}
		out.Messages = append(out.Messages, messages...)
	}
	if err := encodeTools(&out, in); err != nil {
		return nil, err
	}
	if err := encodeConfig(&out, in.GenerationConfig); err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// encodeTurn translates one turn. A turn of function results becomes one message
// for each.
func encodeTurn(c *genai.Content, index int, ids *callIDs) ([]message, error) {
	m := message{Role: "user"}
	if c.Role == "model" {
		m.Role = "assistant"
	}
	var (
		parts   []contentPart
		results []message
	)
	for i := range c.Parts {
		p := &c.Parts[i]
		switch {
		case p.Thought: // Thoughts of earlier turns are not sent back.
		case p.Text != nil:
			parts = append(parts, contentPart{Type: "text", Text: *p.Text})
		case p.InlineData != nil:
			part, err := media(p.InlineData, fmt.Sprintf("contents[%d].parts[%d]", index, i))
			if err != nil {
				return nil, err
			}
			if m.Role == "assistant" && part.Type != "text" {
				return nil, refuse("contents[%d].parts[%d].inlineData of type %q in a turn of the model", index, i, p.InlineData.MimeType)
			}
			parts = append(parts, part)
		case p.FileData != nil:
			// Files of this server were put in as inlineData before.
			return nil, invalid("contents[%d].parts[%d].fileData: this model's back-end can't fetch it; upload the file to this server and give the uri "+
				"that it gets, or send its content as inlineData", index, i)
		case p.FunctionCall != nil:
			args := string(p.FunctionCall.Args)
			if args == "" {
				args = "{}"
			}
			m.ToolCalls = append(m.ToolCalls, toolCall{ID: ids.called(p.FunctionCall.ID, p.FunctionCall.Name), Type: "function",
				Function: functionCall{Name: p.FunctionCall.Name, Arguments: args}})
		case p.FunctionResponse != nil:
			results = append(results, message{Role: "tool", ToolCallID: ids.answered(p.FunctionResponse.ID, p.FunctionResponse.Name),
				Content: string(p.FunctionResponse.Response)})
		case p.ExecutableCode != nil || p.CodeExecutionResult != nil:
			return nil, refuse("contents[%d].parts[%d]: code execution", index, i)
		case p.ThoughtSignature == "":
			return nil, refuse("contents[%d].parts[%d]: a part of no known kind", index, i)
		}
	}
	switch {
	case len(parts) == 1 && parts[0].Type == "text":
		m.Content = parts[0].Text
	case len(parts) > 0 && m.Role == "assistant":
		// The protocol wants an assistant's content as text.
		var texts []string
		for _, p := range parts {
			texts = append(texts, p.Text)
		}
		m.Content = strings.Join(texts, "")
	case len(parts) > 0:
		m.Content = parts
	case m.ToolCalls == nil:
		return results, nil
	}
	return append(results, m), nil
}

// callIDs makes up the ids by which results find their calls where a client of
// the classic surface left them out. The n-th result of a name answers the n-th
// call of it.
type callIDs struct{ calls, results map[string]int }

func (c *callIDs) called(id, name string) string { return number(&c.calls, id, name) }

func (c *callIDs) answered(id, name string) string { return number(&c.results, id, name) }

func number(seen *map[string]int, id, name string) string {
	if id != "" {
		return id
	}
	if *seen == nil {
		*seen = make(map[string]int)
	}
	(*seen)[name]++
	if n := (*seen)[name]; n > 1 {
		return fmt.Sprintf("call_%s_%d", name, n)
	}
	return "call_" + name
}

func encodeTools(out *chatRequest, in *genai.GenerateContentRequest) error {
	for i, t := range in.Tools {
		switch {
		case t.GoogleSearch != nil:
			return refuse("tools[%d].googleSearch", i)
		case t.CodeExecution != nil:
			return refuse("tools[%d].codeExecution", i)
		case t.URLContext != nil:
			return refuse("tools[%d].urlContext", i)
		case t.GoogleSearchRetrieval != nil:
			return refuse("tools[%d].googleSearchRetrieval", i)
		case t.GoogleMaps != nil:
			return refuse("tools[%d].googleMaps", i)
		case t.FileSearch != nil:
			return refuse("tools[%d].fileSearch", i)
		case t.ComputerUse != nil:
			return refuse("tools[%d].computerUse", i)
		case t.MCPServers != nil:
			return refuse("tools[%d].mcpServers", i)
		}
		for k := range t.FunctionDeclarations {
			f := &t.FunctionDeclarations[k]
			schema, err := f.Schema()
			if err != nil {
				return invalid("tools[%d].functionDeclarations[%d].parameters: %v", i, k, err)
			}
			if schema == nil {
				schema = json.RawMessage(`{"type":"object","properties":{}}`)
			}
			out.Tools = append(out.Tools, tool{Type: "function", Function: function{Name: f.Name, Description: f.Description, Parameters: schema}})
		}
	}
	if in.ToolConfig == nil || in.ToolConfig.FunctionCallingConfig == nil || len(out.Tools) == 0 {
		return nil
	}
	c := in.ToolConfig.FunctionCallingConfig
	switch strings.ToUpper(c.Mode) {
	case "NONE":
		out.ToolChoice = "none"
	case "ANY":
		out.ToolChoice = "required"
		if len(c.AllowedFunctionNames) > 1 {
			// The protocol can force one function or any, not some: offer only those.
			out.Tools = slices.DeleteFunc(out.Tools, func(t tool) bool { return !slices.Contains(c.AllowedFunctionNames, t.Function.Name) })
		}
		if len(c.AllowedFunctionNames) == 1 {
			out.ToolChoice = map[string]any{"type": "function", "function": map[string]string{"name": c.AllowedFunctionNames[0]}}
		}
	}
	return nil
}

func encodeConfig(out *chatRequest, g *genai.GenerationConfig) error {
	if g == nil {
		return nil
	}
	if err := encodeModalities(out, g); err != nil {
		return err
	}
	out.Temperature, out.TopP, out.TopK, out.N = g.Temperature, g.TopP, g.TopK, g.CandidateCount
	out.MaxTokens, out.Stop, out.Seed = g.MaxOutputTokens, g.StopSequences, g.Seed
	out.PresencePenalty, out.FrequencyPenalty = g.PresencePenalty, g.FrequencyPenalty
	if g.ThinkingConfig != nil {
		var thinking struct {
			Level string `json:"thinkingLevel"`
		}
		if err := genai.Decode(g.ThinkingConfig, &thinking); err != nil {
			return invalid("generationConfig.thinkingConfig: %v", err)
		}
		if level := strings.ToLower(thinking.Level); level != "thinking_level_unspecified" {
			out.ReasoningEffort = level
		}
	}
	isJSON, schema, err := g.JSONMode()
	switch {
	case err != nil:
		return invalid("generationConfig.responseSchema: %v", err)
	case schema != nil:
		schema, strict := strictSchema(schema)
		out.ResponseFormat = &responseFormat{Type: "json_schema", JSONSchema: &jsonSchema{Name: "answer", Schema: schema, Strict: strict}}
	case isJSON:
		out.ResponseFormat = &responseFormat{Type: "json_object"}
	}
	return nil
}

// encodeModalities asks for speech or images beside the text, which such servers
// always give.
func encodeModalities(out *chatRequest, g *genai.GenerationConfig) error {
	for _, m := range g.ResponseModalities {
		m = strings.ToLower(m)
		switch {
		case m == "text", m == "modality_unspecified", slices.Contains(out.Modalities, m):
			continue
		case m != "audio" && m != "image":
			return refuse("generationConfig.responseModalities %q", strings.ToUpper(m))
		case out.Modalities == nil:
			out.Modalities = []string{"text"}
		}
		out.Modalities = append(out.Modalities, m)
	}
	if !slices.Contains(out.Modalities, "audio") {
		return nil
	}
	out.Audio = &speech{Voice: "alloy", Format: "wav"}
	if out.Stream {
		out.Audio.Format = "pcm16" // The one form that comes in pieces.
	}
	if g.SpeechConfig == nil {
		return nil
	}
	var config struct {
		VoiceConfig struct {
			PrebuiltVoiceConfig struct {
				VoiceName string `json:"voiceName"`
			} `json:"prebuiltVoiceConfig"`
		} `json:"voiceConfig"`
		MultiSpeakerVoiceConfig json.RawMessage `json:"multiSpeakerVoiceConfig"`
	}
	if err := genai.Decode(g.SpeechConfig, &config); err != nil {
		return invalid("generationConfig.speechConfig: %v", err)
	}
	if config.MultiSpeakerVoiceConfig != nil {
		return refuse("generationConfig.speechConfig.multiSpeakerVoiceConfig")
	}
	if name := config.VoiceConfig.PrebuiltVoiceConfig.VoiceName; name != "" {
		out.Audio.Voice = name
	}
	return nil
}
