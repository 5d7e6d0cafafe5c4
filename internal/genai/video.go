package genai

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// GenerateVideos is the body of predictLongRunning (wire contract §6.1).
type GenerateVideos struct {
	Instances     []VideoInstance `json:"instances,omitempty"`
	Parameters    VideoParameters `json:"parameters"`
	WebhookConfig json.RawMessage `json:"webhookConfig,omitempty"`
}

// VideoInstance says what the video is of.
type VideoInstance struct {
	Prompt          string           `json:"prompt,omitempty"`
	Image           *VideoMedia      `json:"image,omitempty"`
	LastFrame       *VideoMedia      `json:"lastFrame,omitempty"`
	Video           *VideoMedia      `json:"video,omitempty"`
	ReferenceImages []ReferenceImage `json:"referenceImages,omitempty"`
}

// ReferenceImage shows something that should be seen.
type ReferenceImage struct {
	Image         *VideoMedia `json:"image,omitempty"`
	ReferenceType string      `json:"referenceType,omitempty"`
}

// VideoMedia is an image or a video in any of the spellings that SDKs and
// documentation have for it; one of them is given.
type VideoMedia struct {
	MimeType           string    `json:"mimeType,omitempty"`
	BytesBase64Encoded string    `json:"bytesBase64Encoded,omitempty"`
	ImageBytes         string    `json:"imageBytes,omitempty"`
	InlineData         *Blob     `json:"inlineData,omitempty"`
	EncodedVideo       string    `json:"encodedVideo,omitempty"`
	Encoding           string    `json:"encoding,omitempty"` // The MIME type of EncodedVideo.
	FileData           *FileData `json:"fileData,omitempty"`
	URI                string    `json:"uri,omitempty"`
	GCSURI             string    `json:"gcsUri,omitempty"`
}

// VideoParameters are the settings. What is a number may also be a string.
type VideoParameters struct {
	SampleCount      json.RawMessage `json:"sampleCount,omitempty"`
	NumberOfVideos   json.RawMessage `json:"numberOfVideos,omitempty"`
	DurationSeconds  json.RawMessage `json:"durationSeconds,omitempty"`
	AspectRatio      string          `json:"aspectRatio,omitempty"`
	Resolution       string          `json:"resolution,omitempty"`
	PersonGeneration string          `json:"personGeneration,omitempty"`
	NegativePrompt   string          `json:"negativePrompt,omitempty"`
	EnhancePrompt    *bool           `json:"enhancePrompt,omitempty"`
	Seed             json.RawMessage `json:"seed,omitempty"`
}

const (
	// MaxVideos is how many videos one request may ask for.
	MaxVideos = 4
	// maxVideoSeconds is far beyond what any model makes.
	maxVideoSeconds = 3600
)

// VideoSpec is a request that was checked, with its media within it. It is what
// a video job keeps.
type VideoSpec struct {
	Prompt           string           `json:"prompt,omitempty"`
	NegativePrompt   string           `json:"negative_prompt,omitempty"`
	Image            *Blob            `json:"image,omitempty"`
	LastFrame        *Blob            `json:"last_frame,omitempty"`
	Video            *Blob            `json:"video,omitempty"`
	References       []VideoReference `json:"references,omitempty"`
	Count            int              `json:"count"`
	DurationSeconds  int              `json:"duration_seconds,omitempty"`
	AspectRatio      string           `json:"aspect_ratio,omitempty"`
	Resolution       string           `json:"resolution,omitempty"`
	PersonGeneration string           `json:"person_generation,omitempty"`
	EnhancePrompt    *bool            `json:"enhance_prompt,omitempty"`
	Seed             *int64           `json:"seed,omitempty"`
}

// VideoReference is a ReferenceImage of a VideoSpec.
type VideoReference struct {
	Image *Blob  `json:"image"`
	Type  string `json:"type,omitempty"`
}

// Spec checks a request and returns it without its media.
func (q *GenerateVideos) Spec() (*VideoSpec, error) {
	if len(q.Instances) != 1 {
		return nil, fmt.Errorf("instances: one is required, %d were given", len(q.Instances))
	}
	in, p := &q.Instances[0], &q.Parameters
	if strings.TrimSpace(in.Prompt) == "" && in.Image == nil && in.Video == nil {
		return nil, errors.New("instances[0].prompt: it is required unless there is an image or a video")
	}
	s := &VideoSpec{Prompt: in.Prompt, NegativePrompt: p.NegativePrompt, Count: 1, AspectRatio: p.AspectRatio, Resolution: p.Resolution,
		PersonGeneration: p.PersonGeneration, EnhancePrompt: p.EnhancePrompt}
	for _, n := range []struct {
		field     string
		raw       json.RawMessage
		low, high int64
		set       func(int64)
	}{
		{"sampleCount", p.SampleCount, 1, MaxVideos, func(n int64) { s.Count = int(n) }},
		{"numberOfVideos", p.NumberOfVideos, 1, MaxVideos, func(n int64) { s.Count = int(n) }},
		{"durationSeconds", p.DurationSeconds, 1, maxVideoSeconds, func(n int64) { s.DurationSeconds = int(n) }},
		{"seed", p.Seed, -1 << 63, 1<<63 - 1, func(n int64) { s.Seed = &n }},
	} {
		if len(n.raw) == 0 || string(n.raw) == "null" {
			continue
		}
		v, err := whole(n.raw)
		if err != nil {
			return nil, fmt.Errorf("parameters.%s: %w", n.field, err)
		}
		if v < n.low || v > n.high {
			return nil, fmt.Errorf("parameters.%s: %d is not between %d and %d", n.field, v, n.low, n.high)
		}
		n.set(v)
	}
	return s, nil
}

// whole reads a whole number, or a string that holds one.
func whole(raw json.RawMessage) (int64, error) {
	text := string(raw)
	if strings.HasPrefix(text, `"`) {
		if err := json.Unmarshal(raw, &text); err != nil {
			return 0, err
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		if len(raw) > 40 {
			raw = raw[:40]
		}
		return 0, fmt.Errorf("expected a whole number, got %s", raw)
	}
	return n, nil
}

// VideoOutput is what a video job made.
type VideoOutput struct {
	// Files are the names of the videos' files, such as files/abc.
	Files []string `json:"files,omitempty"`
	// Filtered is how many were held back for safety, and why.
	Filtered        int      `json:"filtered,omitempty"`
	FilteredReasons []string `json:"filtered_reasons,omitempty"`
}

// VideoOperation is how a video job is shown (§6.2).
type VideoOperation struct {
	Name     string         `json:"name"`
	Metadata VideoMetadata  `json:"metadata"`
	Done     bool           `json:"done"`
	Response *VideoResponse `json:"response,omitempty"`
	Error    *RowError      `json:"error,omitempty"`
}

// VideoMetadata tells how far a video job is. The SDKs hand it on unread.
type VideoMetadata struct {
	Type            string `json:"@type"`
	Model           string `json:"model"`
	State           string `json:"state"`
	ProgressPercent int    `json:"progressPercent"`
	CreateTime      string `json:"createTime"`
	UpdateTime      string `json:"updateTime"`
	EndTime         string `json:"endTime,omitempty"`
}

// VideoResponse is the good end.
type VideoResponse struct {
	Type                  string                `json:"@type"`
	GenerateVideoResponse GenerateVideoResponse `json:"generateVideoResponse"`
}

// GenerateVideoResponse points to the videos, and tells of those held back.
type GenerateVideoResponse struct {
	GeneratedSamples        []GeneratedSample `json:"generatedSamples,omitempty"`
	RAIMediaFilteredCount   int               `json:"raiMediaFilteredCount,omitempty"`
	RAIMediaFilteredReasons []string          `json:"raiMediaFilteredReasons,omitempty"`
}

// GeneratedSample is one video.
type GeneratedSample struct {
	Video struct {
		URI string `json:"uri"`
	} `json:"video"`
}
