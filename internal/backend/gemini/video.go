package gemini

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

const (
	// A video that takes long is asked after less often: after an eighth of the time
	// that it has taken, within these bounds.
	minVideoLook, maxVideoLook = 2 * time.Second, 15 * time.Second
	// maxVideoTime is when a video is given up that is never done: minutes are usual.
	maxVideoTime = 2 * time.Hour
	// maxBlind is how long the API may not be reachable while a video is made.
	maxBlind = 30 * time.Minute
)

// videoNote is what MakeVideos notes: the operation that makes them, and since when.
type videoNote struct {
	Operation string    `json:"operation"`
	Begun     time.Time `json:"begun"`
}

// image is how the SDKs send an image (wire contract §6.1).
type image struct {
	Data     string `json:"bytesBase64Encoded"`
	MimeType string `json:"mimeType"`
}

func imageOf(b *genai.Blob) *image {
	if b == nil {
		return nil
	}
	return &image{Data: b.Data, MimeType: b.MimeType}
}

type videoRequest struct {
	Instances  [1]videoInstance `json:"instances"`
	Parameters struct {
		SampleCount      int    `json:"sampleCount,omitempty"`
		DurationSeconds  int    `json:"durationSeconds,omitempty"`
		AspectRatio      string `json:"aspectRatio,omitempty"`
		Resolution       string `json:"resolution,omitempty"`
		PersonGeneration string `json:"personGeneration,omitempty"`
		NegativePrompt   string `json:"negativePrompt,omitempty"`
		EnhancePrompt    *bool  `json:"enhancePrompt,omitempty"`
		Seed             *int64 `json:"seed,omitempty"`
	} `json:"parameters"`
}

type videoInstance struct {
	Prompt          string           `json:"prompt,omitempty"`
	Image           *image           `json:"image,omitempty"`
	LastFrame       *image           `json:"lastFrame,omitempty"`
	ReferenceImages []referenceImage `json:"referenceImages,omitempty"`
	Video           *encodedVideo    `json:"video,omitempty"`
}

type referenceImage struct {
	Image *image `json:"image"`
	Type  string `json:"referenceType,omitempty"`
}

type encodedVideo struct {
	Data     string `json:"encodedVideo"`
	MimeType string `json:"encoding"`
}

// operation is a long-running operation; Response is of a video (§6.2).
type operation struct {
	Name     string          `json:"name"`
	Done     bool            `json:"done"`
	Error    *rpcError       `json:"error"`
	Response json.RawMessage `json:"response"`
}

type videoResponse struct {
	GenerateVideoResponse struct {
		GeneratedSamples []struct {
			Video struct {
				URI          string `json:"uri"`
				EncodedVideo string `json:"encodedVideo"`
				Encoding     string `json:"encoding"`
			} `json:"video"`
		} `json:"generatedSamples"`
		RAIMediaFilteredCount   int      `json:"raiMediaFilteredCount"`
		RAIMediaFilteredReasons []string `json:"raiMediaFilteredReasons"`
	} `json:"generateVideoResponse"`
}

// MakeVideos implements backend.VideoMaker. The operation's name is noted as soon as
// it is known, so that a further run waits for the same operation. The API has no
// way to cancel it: a video that nobody wants any more is made and not fetched.
func (b *Backend) MakeVideos(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
	var note videoNote
	if req.Checkpoint != nil {
		if err := json.Unmarshal(req.Checkpoint, &note); err != nil {
			return nil, fmt.Errorf("gemini: the note of an earlier run: %w", err)
		}
	}
	if note.Operation == "" {
		name, err := b.startVideo(ctx, req)
		if err != nil {
			return nil, err
		}
		note = videoNote{Operation: name, Begun: time.Now().UTC()}
		text, err := json.Marshal(note)
		if err != nil {
			return nil, err
		}
		if err := out.Note(ctx, text); err != nil {
			return nil, err
		}
	}
	op, err := b.waitForVideo(ctx, &note)
	if err != nil {
		return nil, err
	}
	if op.Error != nil {
		return nil, b.operationError(op.Error)
	}
	var made videoResponse
	if err := json.Unmarshal(op.Response, &made); err != nil {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end's answer is not the JSON of a video", Cause: err}
	}
	r := &made.GenerateVideoResponse
	if len(r.GeneratedSamples) == 0 && r.RAIMediaFilteredCount == 0 {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end has made no video and does not say why"}
	}
	for i := range r.GeneratedSamples {
		v := &r.GeneratedSamples[i].Video
		if err := b.fetchVideo(ctx, v.URI, v.EncodedVideo, v.Encoding, out); err != nil {
			return nil, err
		}
	}
	res := &backend.VideoResult{Filtered: r.RAIMediaFilteredCount}
	for _, reason := range r.RAIMediaFilteredReasons {
		res.FilteredReasons = append(res.FilteredReasons, b.clean(reason))
	}
	return res, nil
}

// startVideo has videos made and returns the operation's name. Only a refusal is
// tried again: when there is no answer they may be under way, and paid for.
func (b *Backend) startVideo(ctx context.Context, req *backend.VideoRequest) (string, error) {
	path, err := modelPath(req.Model, "predictLongRunning")
	if err != nil {
		return "", err
	}
	var q videoRequest
	in := &q.Instances[0]
	in.Prompt, in.Image, in.LastFrame = req.Prompt, imageOf(req.Image), imageOf(req.LastFrame)
	for i := range req.References {
		in.ReferenceImages = append(in.ReferenceImages, referenceImage{Image: imageOf(req.References[i].Image), Type: req.References[i].Type})
	}
	if v := req.Video; v != nil {
		in.Video = &encodedVideo{Data: v.Data, MimeType: v.MimeType}
	}
	p := &q.Parameters
	p.SampleCount, p.DurationSeconds, p.AspectRatio, p.Resolution = req.Count, req.DurationSeconds, req.AspectRatio, req.Resolution
	p.PersonGeneration, p.NegativePrompt, p.EnhancePrompt, p.Seed = req.PersonGeneration, req.NegativePrompt, req.EnhancePrompt, req.Seed
	body, err := encode(q)
	if err != nil {
		return "", err
	}
	var op operation
	if err := b.call(ctx, &request{method: http.MethodPost, path: path, body: body, retries: b.retries, once: true}, &op); err != nil {
		return "", err
	}
	if !operationName.MatchString(op.Name) || strings.Contains(op.Name, "..") {
		return "", &backend.Error{Kind: backend.Internal, Message: "the back-end does not say what the operation is called that makes the video"}
	}
	return op.Name, nil
}

// operationName is the form of names that are also paths.
var operationName = regexp.MustCompile(`^[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)+$`)

// waitForVideo waits until the operation is done. While the API can't be reached it
// goes on asking: what was begun is paid for.
func (b *Backend) waitForVideo(ctx context.Context, note *videoNote) (*operation, error) {
	seen := time.Now()
	for {
		taken := time.Since(note.Begun)
		wait := min(max(taken/8, minVideoLook), maxVideoLook)
		var op operation
		err := b.call(ctx, &request{method: http.MethodGet, path: note.Operation, timeout: look}, &op)
		switch {
		case err == nil && op.Done:
			return &op, nil
		case err == nil && taken > maxVideoTime:
			return nil, &backend.Error{Kind: backend.Timeout, Message: fmt.Sprintf("the back-end has not made the video within %s", maxVideoTime)}
		case err == nil:
			seen = time.Now()
		case ctx.Err() != nil:
			return nil, err
		case isStatus(err, http.StatusNotFound):
			return nil, &backend.Error{Kind: backend.Internal, Message: "the back-end does not know the operation any more that makes the video", Cause: err}
		case !passing(err) || time.Since(seen) > maxBlind:
			return nil, err
		default:
			wait = max(wait, backend.AsError(err).RetryAfter)
		}
		if err := backend.Sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// fetchVideo copies a video to the output.
func (b *Backend) fetchVideo(ctx context.Context, uri, encoded, mimeType string, out backend.VideoOutput) error {
	var w io.WriteCloser
	create := func(kind string) (io.Writer, error) {
		if mimeType != "" {
			kind = mimeType
		}
		if !strings.HasPrefix(kind, "video/") {
			kind = "video/mp4" // What Veo makes.
		}
		var err error
		w, err = out.Create(ctx, kind)
		return w, err
	}
	if encoded == "" {
		if err := b.download(ctx, uri, create); err != nil {
			return err
		}
		return w.Close()
	}
	if _, err := create(""); err != nil {
		return err
	}
	if _, err := io.Copy(w, base64.NewDecoder(base64.StdEncoding, strings.NewReader(encoded))); err != nil {
		return &backend.Error{Kind: backend.Internal, Message: "the back-end's video is not base64", Cause: err}
	}
	return w.Close()
}
