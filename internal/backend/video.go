package backend

import (
	"context"
	"fmt"
	"io"

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

// VideoResult tells what was held back for safety.
type VideoResult struct {
	Filtered        int
	FilteredReasons []string
}

// MakeVideos implements VideoMaker. A back-end that makes no videos refuses the
// request.
func (r *Router) MakeVideos(ctx context.Context, req *VideoRequest, out VideoOutput) (res *VideoResult, err error) {
	route, model, err := r.find(req.Model)
	if err != nil {
		return nil, err
	}
	maker, ok := route.Backend.(VideoMaker)
	if !ok {
		return nil, &Error{Kind: InvalidRequest, Message: fmt.Sprintf("the back-end of model %q makes no videos", req.Model)}
	}
	err = route.through(ctx, Turn{}, func() (err error) {
		own := *req
		own.Model = model
		res, err = maker.MakeVideos(ctx, &own, out)
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}
