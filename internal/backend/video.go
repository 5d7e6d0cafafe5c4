package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"

	"ringback.dev/internal/genai"
)

// VideoRequest asks for videos. Media are within the request, as base64. What is
// empty or nil is the back-end's to choose; what a back-end can't do it refuses
// with InvalidRequest, naming the field as the wire has it (wire contract §6.1).
type VideoRequest struct {
	// Model is the name as the back-end knows it.
	Model          string
	Prompt         string
	NegativePrompt string
	// Image is the first frame, LastFrame the last one; References are things that
	// should be seen; Video is to be extended.
	Image, LastFrame, Video *genai.Blob
	References              []VideoReference
	// Count is how many videos are wanted, at least 1.
	Count int
	// DurationSeconds is the length of each; 0 leaves it open.
	DurationSeconds int
	// AspectRatio is such as "16:9", Resolution such as "720p".
	AspectRatio, Resolution string
	PersonGeneration        string
	EnhancePrompt           *bool
	Seed                    *int64
	// Checkpoint is what the latest run of the same job noted; nil if none did.
	Checkpoint []byte
}

// VideoReference is an image of something that should be seen. Type is such as
// "ASSET".
type VideoReference struct {
	Image *genai.Blob
	Type  string
}

// VideoMaker is a back-end that makes videos, which takes minutes. Errors are
// those of Backend. When it was cut off and is called again for the same job, with
// its Checkpoint, it goes on if it can, so that nothing is paid for twice.
type VideoMaker interface {
	MakeVideos(ctx context.Context, req *VideoRequest, out VideoOutput) (*VideoResult, error)
}

// VideoOutput is where a VideoMaker puts what it makes and says how far it is.
type VideoOutput interface {
	// Create begins a video. It counts once its writer was closed; a writer that is
	// not closed when MakeVideos returns is dropped.
	Create(ctx context.Context, mimeType string) (io.WriteCloser, error)
	// Note keeps what a further run needs to go on rather than to begin, and pay,
	// again. On return it is durable.
	Note(ctx context.Context, checkpoint []byte) error
	// Progress tells how much is done, in percent.
	Progress(percent int)
}

// VideoResolver tells before a request is made whether a model makes videos; the
// error is an *Error of kind ModelNotFound or InvalidRequest. A VideoMaker that is
// not one makes them on every model that it has.
type VideoResolver interface {
	ResolveVideo(model string) error
}

// VideoResult tells what was held back for safety.
type VideoResult struct {
	Filtered        int
	FilteredReasons []string
}

// ResolveVideo implements VideoResolver: one of those who may run the model makes
// videos on it.
func (r *Router) ResolveVideo(model string) error {
	route, _, err := r.find(model)
	if err != nil {
		return err
	}
	targets := route.videoMakers(model)
	if len(targets) == 0 {
		err = &Error{Kind: InvalidRequest, Message: fmt.Sprintf("the back-end of model %q makes no videos", model)}
	}
	for _, t := range targets {
		more, ok := t.Backend.(VideoResolver)
		if !ok {
			return nil
		}
		if err = more.ResolveVideo(t.model(model)); err == nil {
			return nil
		}
	}
	return err
}

// MakeVideos implements VideoMaker. A back-end that makes no videos refuses the
// request. Once a video was begun or something was noted it is one back-end's, also
// in further runs: another would be paid for the same again.
func (r *Router) MakeVideos(ctx context.Context, req *VideoRequest, out VideoOutput) (res *VideoResult, err error) {
	route, _, err := r.find(req.Model)
	if err != nil {
		return nil, err
	}
	targets, checkpoint := route.goOn(req.Model, req.Checkpoint)
	if len(targets) == 0 {
		return nil, &Error{Kind: InvalidRequest, Message: fmt.Sprintf("the back-end of model %q makes no videos", req.Model)}
	}
	err = r.run(ctx, route, targets, req.Model, Turn{}, func(t *target) (begun bool, err error) {
		own := *req
		own.Model, own.Checkpoint = t.model(req.Model), checkpoint
		made := &begunVideos{VideoOutput: out, by: t.checkpointName(req.Model)}
		res, err = t.Backend.(VideoMaker).MakeVideos(ctx, &own, made)
		return made.begun.Load(), err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// begunVideos notes whether a back-end has begun. Checkpoints of a fallback carry its
// name, so that the next run finds the one that they are for.
type begunVideos struct {
	VideoOutput
	by    string // Empty for the route's own back-end.
	begun atomic.Bool
}

func (v *begunVideos) Create(ctx context.Context, mimeType string) (io.WriteCloser, error) {
	v.begun.Store(true)
	return v.VideoOutput.Create(ctx, mimeType)
}

func (v *begunVideos) Note(ctx context.Context, checkpoint []byte) error {
	v.begun.Store(true)
	if v.by != "" {
		var err error
		if checkpoint, err = json.Marshal(fallbackCheckpoint{v.by, checkpoint}); err != nil {
			return err
		}
	}
	return v.VideoOutput.Note(ctx, checkpoint)
}

type fallbackCheckpoint struct {
	Fallback   string `json:"ringback_fallback"`
	Checkpoint []byte `json:"checkpoint"`
}

// checkpointName tells a fallback from the others, also when the configuration has
// changed since.
func (t *target) checkpointName(asked string) string {
	if t.first {
		return ""
	}
	return t.model(asked) + " on " + t.Name
}

// goOn returns who may make the videos of a request, and the checkpoint that is
// theirs: who noted it. If that one is gone, others begin anew.
func (r *Route) goOn(asked string, noted []byte) (targets []*target, checkpoint []byte) {
	targets = r.videoMakers(asked)
	if noted == nil {
		return targets, nil
	}
	by := fallbackCheckpoint{Checkpoint: noted}
	var read fallbackCheckpoint
	if json.Unmarshal(noted, &read) == nil && read.Fallback != "" {
		by = read
	}
	for _, t := range targets {
		if t.checkpointName(asked) == by.Fallback {
			return []*target{t}, by.Checkpoint
		}
	}
	return targets, nil
}
