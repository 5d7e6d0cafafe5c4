package work

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"ringback.dev"
	"ringback.dev/internal/genai"
)

// videoInteraction runs an interaction that makes a video, which newer SDKs have no
// other way for. It has no stream of its own: its only step is known when it ends.
// The error is that of makeVideos.
func (r *Runner) videoInteraction(ctx context.Context, j *ringback.Job, lease ringback.Lease, spec *genai.InteractionVideo) (Result, error) {
	made, err := r.makeVideos(ctx, j, lease, videoRequest(&spec.VideoSpec, j.Model))
	if err != nil {
		return Result{}, err
	}
	if made.failed != nil {
		return failedInteraction(interactionCode(made.failed.Kind), made.failed.Message)
	}
	if len(made.files) == 0 {
		return failedInteraction("api_error", strings.Join(append([]string{"the video was held back for safety"}, made.held.FilteredReasons...), "; "))
	}
	step := genai.Step{Type: genai.StepModelOutput}
	for i := range made.files {
		content, err := r.videoContent(ctx, &made.files[i], spec.Inline)
		if err != nil {
			return Result{}, err
		}
		step.Content = append(step.Content, content)
	}
	res := Result{State: ringback.Completed, Files: made.files}
	res.Output, err = json.Marshal(genai.InteractionOutput{Steps: []genai.Step{step}})
	return res, err
}

// videoContent shows a video by its file's name, of which the surface makes an
// address, or by its bytes if that was asked for and it is small enough.
func (r *Runner) videoContent(ctx context.Context, f *ringback.File, inline bool) (genai.StepContent, error) {
	c := genai.StepContent{Type: "video", MimeType: f.MimeType}
	if !inline || f.Size > int64(r.MaxRow) {
		c.URI = "files/" + string(f.ID)
		return c, nil
	}
	blob, err := r.Blobs.Open(ctx, f.Blob)
	if err != nil {
		return c, err
	}
	defer blob.Close()
	data, err := io.ReadAll(blob)
	if err != nil {
		return c, fmt.Errorf("read video %s: %w", f.ID, err)
	}
	c.Data = base64.StdEncoding.EncodeToString(data)
	return c, nil
}
