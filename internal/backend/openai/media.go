package openai

import (
	"encoding/base64"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// contentPart is a piece of a user's message. OpenAI knows texts, images, audio
// and files; vLLM takes videos in the same manner.
type contentPart struct {
	Type       string      `json:"type"`
	Text       string      `json:"text,omitempty"`
	ImageURL   *mediaURL   `json:"image_url,omitempty"`
	VideoURL   *mediaURL   `json:"video_url,omitempty"`
	InputAudio *inputAudio `json:"input_audio,omitempty"`
	File       *file       `json:"file,omitempty"`
}

// mediaURL holds the data itself, as a data URL (RFC 2397).
type mediaURL struct {
	URL string `json:"url"`
}

// inputAudio is base64 and the short name of what is in it.
type inputAudio struct {
	Data   string `json:"data"`
	Format string `json:"format"`
}

type file struct {
	Filename string `json:"filename"`
	FileData string `json:"file_data"`
}

// audioFormats are the short names of MIME types. OpenAI and llama.cpp take wav and
// mp3; vLLM and others take more, and say what they don't.
var audioFormats = map[string]string{
	"audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav", "audio/vnd.wave": "wav",
	"audio/mp3": "mp3", "audio/mpeg": "mp3", "audio/mpga": "mp3",
	"audio/flac": "flac", "audio/x-flac": "flac", "audio/ogg": "ogg", "audio/opus": "opus", "audio/webm": "webm",
	"audio/aac": "aac", "audio/x-aac": "aac", "audio/aiff": "aiff", "audio/x-aiff": "aiff",
	"audio/mp4": "m4a", "audio/m4a": "m4a", "audio/x-m4a": "m4a",
}

// fileExtensions are the documents that are sent as files; a file needs a name.
var fileExtensions = map[string]string{
	"application/pdf": ".pdf",
	"application/vnd.openxmlformats-officedocument.wordprocessingml.document":   ".docx",
	"application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
	"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet":         ".xlsx",
}

// textTypes are text although their names don't begin with text/.
var textTypes = map[string]bool{
	"application/json": true, "application/xml": true, "application/yaml": true, "application/x-yaml": true,
	"application/javascript": true, "application/x-javascript": true, "application/x-python": true, "application/x-python-code": true,
}

// media translates data within a request. at names the part in errors.
func media(b *genai.Blob, at string) (contentPart, error) {
	kind, _, err := mime.ParseMediaType(b.MimeType)
	if err != nil {
		return contentPart{}, invalid("%s.inlineData.mimeType: %q is not a type such as image/png", at, b.MimeType)
	}
	data, ok := standardBase64(b.Data)
	if !ok {
		return contentPart{}, invalid("%s.inlineData.data: it is not base64", at)
	}
	url := func() string { return "data:" + kind + ";base64," + data }
	major, _, _ := strings.Cut(kind, "/")
	switch {
	case major == "image":
		return contentPart{Type: "image_url", ImageURL: &mediaURL{url()}}, nil
	case major == "video":
		return contentPart{Type: "video_url", VideoURL: &mediaURL{url()}}, nil
	case audioFormats[kind] != "":
		return contentPart{Type: "input_audio", InputAudio: &inputAudio{Data: data, Format: audioFormats[kind]}}, nil
	case fileExtensions[kind] != "":
		return contentPart{Type: "file", File: &file{Filename: "document" + fileExtensions[kind], FileData: url()}}, nil
	case major == "text", textTypes[kind]:
		text, err := base64.StdEncoding.DecodeString(data)
		if err != nil || !utf8.Valid(text) {
			return contentPart{}, invalid("%s.inlineData.data: a document of type %q must be text in UTF-8", at, b.MimeType)
		}
		return contentPart{Type: "text", Text: string(text)}, nil
	}
	hint := ""
	if major == "audio" {
		hint = "; send it as audio/wav or audio/mp3"
	}
	return contentPart{}, invalid("%s.inlineData of type %q%s%s", at, b.MimeType, unsupported, hint)
}

// standardBase64 takes base64 in any of the forms of proto-JSON: with the alphabet
// of URLs (as the Python SDK sends it) and without padding. Servers take the
// standard form alone, and some drop what they don't know.
func standardBase64(s string) (string, bool) {
	if strings.ContainsAny(s, "-_\r\n") {
		s = strings.NewReplacer("-", "+", "_", "/", "\r", "", "\n", "").Replace(s)
	}
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '+', c == '/':
		default:
			return "", false
		}
	}
	switch len(s) % 4 {
	case 1:
		return "", false
	case 2:
		s += "=="
	case 3:
		s += "="
	}
	return s, true
}

// answerAudio is speech in an answer. Data is base64; Transcript is what is said.
type answerAudio struct {
	Data       string `json:"data"`
	Transcript string `json:"transcript"`
}

// answerImage is an image in an answer, as OpenRouter and LiteLLM have it.
type answerImage struct {
	ImageURL mediaURL `json:"image_url"`
}

// spoken is the type of raw samples, which come in streams: 24,000 in a second, of 16
// bits, as OpenAI's pcm16 and Gemini's speech are.
const spoken = "audio/L16;codec=pcm;rate=24000"

// blob tells by its first bytes what the speech is.
func (a *answerAudio) blob(streamed bool) (*genai.Blob, error) {
	data, ok := standardBase64(a.Data)
	if !ok {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer holds audio that is not base64"}
	}
	kind := spoken
	if !streamed {
		start, err := base64.StdEncoding.DecodeString(data[:min(len(data), 64)])
		if err != nil {
			return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer holds audio that is not base64", Cause: err}
		}
		switch seen := http.DetectContentType(start); {
		case seen == "audio/wave":
			kind = "audio/wav"
		case seen == "application/ogg":
			kind = "audio/ogg"
		case strings.HasPrefix(seen, "audio/"):
			kind = seen
		case strings.HasPrefix(string(start), "fLaC"):
			kind = "audio/flac"
		case len(start) > 1 && start[0] == 0xff && start[1]&0xe0 == 0xe0:
			kind = "audio/mpeg"
		}
	}
	return &genai.Blob{MimeType: kind, Data: data}, nil
}

// blob reads a data URL. An image that is elsewhere is not fetched.
func (i *answerImage) blob() (*genai.Blob, error) {
	rest, ok := strings.CutPrefix(i.ImageURL.URL, "data:")
	kind, data, found := strings.Cut(rest, ";base64,")
	if !ok || !found {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer holds an image that is not within it, as base64"}
	}
	if data, ok = standardBase64(data); !ok {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer holds an image that is not base64"}
	}
	return &genai.Blob{MimeType: kind, Data: data}, nil
}

// invalid is an error of the caller's.
func invalid(format string, args ...any) error {
	return &backend.Error{Kind: backend.InvalidRequest, Message: fmt.Sprintf(format, args...)}
}
