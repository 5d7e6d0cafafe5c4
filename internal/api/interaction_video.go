package api

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"ringback.dev/internal/genai"
)

// videoFormat reads a response_format of type video.
func videoFormat(f *genai.ResponseFormat) (*genai.InteractionVideo, error) {
	v := &genai.InteractionVideo{VideoSpec: genai.VideoSpec{Count: 1, AspectRatio: f.AspectRatio, Resolution: f.Resolution}}
	if f.GCSURI != "" {
		return nil, invalid("response_format.gcs_uri: a bucket can't be written to; the video becomes a file of this server")
	}
	switch strings.ToLower(f.Delivery) {
	case "", "uri":
	case "inline":
		v.Inline = true
	default:
		return nil, invalid("response_format.delivery: %q is neither inline nor uri", f.Delivery)
	}
	if !given(f.Duration) {
		return v, nil
	}
	text := string(f.Duration)
	_ = json.Unmarshal(f.Duration, &text) // A number stays what it is.
	n, err := strconv.Atoi(strings.TrimSuffix(text, "s"))
	if err != nil || n < 1 {
		return nil, invalid("response_format.duration: %s is not a number of seconds such as \"8s\"", f.Duration)
	}
	v.DurationSeconds = n
	return v, nil
}

// checkVideo refuses what has no meaning for a video, so that nothing is dropped in
// silence.
func checkVideo(q *genai.CreateInteraction) error {
	refuse := func(field string) error { return invalid("%s: it has no meaning for a video", field) }
	switch g := q.GenerationConfig; {
	case q.Store != nil && !*q.Store:
		return invalid("store: a video is a file, so an interaction that makes one must be stored")
	case q.PreviousInteractionID != "":
		return invalid("previous_interaction_id: a video can't go on with a conversation; send its prompt, images or video as input")
	case q.SystemInstruction != "":
		return refuse("system_instruction")
	case len(q.Tools) > 0:
		return refuse("tools")
	case g != nil:
		only := *g
		only.Seed = nil
		if rest, err := json.Marshal(only); err != nil || string(rest) != "{}" {
			return invalid("generation_config: only seed has a meaning for a video, not %s", rest)
		}
	}
	return nil
}

// videoInput makes a request for a video of the input: its text is the prompt, its
// first image the first frame, further ones are things to be seen, a video is to be
// extended. Files are read now: they may be gone when it runs.
func (a *api) videoInput(c *call, spec *genai.InteractionSpec) error {
	if err := a.makesVideos(spec.Model); err != nil {
		return err
	}
	v := spec.Video
	if g := spec.GenerationConfig; g != nil {
		v.Seed = g.Seed
	}
	m := &media{api: a, call: c, left: a.MaxBody}
	var texts []string
	for i := range spec.Steps {
		if spec.Steps[i].Type != genai.StepUserInput {
			return invalid("input[%d]: a video is made of content only, not of a step of type %q", i, spec.Steps[i].Type)
		}
		for k := range spec.Steps[i].Content {
			content := &spec.Steps[i].Content[k]
			if content.Type == "text" {
				texts = append(texts, content.Text)
				continue
			}
			if content.Type != "image" && content.Type != "video" {
				return invalid("input: a video is made of text, images and a video, not of %s", content.Type)
			}
			field := fmt.Sprintf("input[%d].content[%d]", i, k)
			read, err := m.read(field, content.Type, &genai.VideoMedia{MimeType: content.MimeType, BytesBase64Encoded: content.Data, URI: content.URI})
			if err != nil {
				return err
			}
			switch {
			case content.Type == "video" && v.Video != nil:
				return invalid("%s: only one video can be extended", field)
			case content.Type == "video":
				v.Video = read
			case v.Image == nil:
				v.Image = read
			default:
				v.References = append(v.References, genai.VideoReference{Image: read, Type: "ASSET"})
			}
			content.Data = "" // It is in the request for the video now.
		}
	}
	v.Prompt = strings.Join(texts, "\n")
	return nil
}
