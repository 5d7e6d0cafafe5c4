package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
)

// createVideo stores a video job and answers at once (wire contract §6.1).
func (a *api) createVideo(c *call) (any, error) {
	body, err := a.body(c)
	if err != nil {
		return nil, err
	}
	mark, earlier, err := a.idempotency(c, body)
	if err != nil {
		return nil, err
	}
	if earlier != "" {
		return a.sendVideo(c, earlier)
	}
	var q genai.GenerateVideos
	if err := genai.Decode(body, &q); err != nil {
		return nil, invalid("%v", err)
	}
	spec, err := q.Spec()
	if err != nil {
		return nil, invalid("%v", err)
	}
	model := string(c.id())
	if err := a.makesVideos(model); err != nil {
		return nil, err
	}
	webhooks, err := a.dynamicWebhooks("webhookConfig", q.WebhookConfig)
	if err != nil {
		return nil, err
	}
	if err := a.videoMedia(c, &q.Instances[0], spec); err != nil {
		return nil, err
	}
	stored, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	j := &ringback.Job{ID: ringback.NewOperationID(c.now), Project: c.project, Kind: ringback.KindVideo, Model: model, Spec: stored,
		Webhooks: webhooks, Idempotency: mark}
	earlier, err = a.once(c, mark, func() error { return a.Runner.Submit(c.Context(), j) })
	if err != nil {
		return nil, err
	}
	if earlier != "" {
		return a.sendVideo(c, earlier)
	}
	j.State = ringback.Pending // As for batches, though it may run by now.
	return a.renderVideo(c, j)
}

// makesVideos reports, as an error, that a model makes no videos.
func (a *api) makesVideos(model string) error {
	switch b := a.Backend.(type) {
	case backend.VideoResolver:
		return b.ResolveVideo(model)
	case backend.VideoMaker:
		return nil
	}
	return &backend.Error{Kind: backend.InvalidRequest, Message: fmt.Sprintf("the back-end of model %q makes no videos", model)}
}

// videoMedia puts the media of a request into its spec, those in files of ours
// too: the files may be gone when the job runs.
func (a *api) videoMedia(c *call, in *genai.VideoInstance, s *genai.VideoSpec) (err error) {
	m := &media{api: a, call: c, left: a.MaxBody}
	if s.Image, err = m.read("instances[0].image", "image", in.Image); err != nil {
		return err
	}
	if s.LastFrame, err = m.read("instances[0].lastFrame", "image", in.LastFrame); err != nil {
		return err
	}
	if s.Video, err = m.read("instances[0].video", "video", in.Video); err != nil {
		return err
	}
	for i := range in.ReferenceImages {
		r := &in.ReferenceImages[i]
		field := fmt.Sprintf("instances[0].referenceImages[%d].image", i)
		image, err := m.read(field, "image", r.Image)
		if err != nil {
			return err
		}
		if image == nil {
			return invalid("%s: it is required", field)
		}
		s.References = append(s.References, genai.VideoReference{Image: image, Type: r.ReferenceType})
	}
	return nil
}

// media reads the media of one request.
type media struct {
	*api
	*call
	left int64 // How many bytes more they may have.
}

// read makes data within the request of an image or a video ("image" or "video",
// as its MIME type begins), whatever the spelling. Nil stays nil.
func (m *media) read(field, kind string, in *genai.VideoMedia) (*genai.Blob, error) {
	if in == nil {
		return nil, nil
	}
	uri := in.URI
	if in.FileData != nil && uri == "" {
		uri = in.FileData.FileURI
	}
	var data []byte
	mimeType := in.MimeType
	switch encoded := cmp.Or(in.BytesBase64Encoded, in.ImageBytes, in.EncodedVideo); {
	case in.GCSURI != "" || strings.HasPrefix(uri, "gs://"):
		return nil, invalid("%s: a gs:// address can't be read by this server; send the bytes (bytesBase64Encoded), or upload a file and give its uri", field)
	case encoded != "" || in.InlineData != nil:
		mimeType = cmp.Or(mimeType, in.Encoding)
		if in.InlineData != nil {
			encoded, mimeType = cmp.Or(encoded, in.InlineData.Data), cmp.Or(mimeType, in.InlineData.MimeType)
		}
		var err error
		if data, err = decodeBase64(encoded); err != nil {
			return nil, invalid("%s: the data is not base64", field)
		}
		if err := m.take(field, int64(len(data))); err != nil {
			return nil, err
		}
	case uri != "":
		f, err := m.ownFile(field, uri)
		if err != nil {
			return nil, err
		}
		if data, err = m.fileBytes(field, &f); err != nil {
			return nil, err
		}
		if mimeType == "" && strings.Contains(f.MimeType, "/") && f.MimeType != "application/octet-stream" {
			mimeType = f.MimeType
		}
	}
	if len(data) == 0 {
		return nil, invalid("%s: it has no data; give bytesBase64Encoded, inlineData or the uri of an uploaded file", field)
	}
	if mimeType == "" {
		mimeType = http.DetectContentType(data)
	}
	if !strings.HasPrefix(mimeType, kind+"/") {
		return nil, invalid("%s: expected %s/…, got %s; give the right mimeType if that is wrong", field, kind, mimeType)
	}
	return &genai.Blob{MimeType: mimeType, Data: base64.StdEncoding.EncodeToString(data)}, nil
}

// take counts bytes of media.
func (m *media) take(field string, n int64) error {
	if m.left -= n; m.left < 0 {
		return &ringback.Error{Code: ringback.TooLarge,
			Message: fmt.Sprintf("%s: the images and videos of a request may have %d bytes together (the server's --max-request-bytes)", field, m.MaxBody)}
	}
	return nil
}

// ownURI finds the id of a file in an address that this server gave out, or in the
// file's name.
var ownURI = regexp.MustCompile(`(?:^|/)files/([a-z0-9-]{1,40})(?::download)?(?:\?.*)?$`)

func (m *media) ownFile(field, uri string) (ringback.File, error) {
	found := ownURI.FindStringSubmatch(uri)
	if found == nil {
		return ringback.File{}, invalid("%s: the address is none of a file of this server, such as files/abc; upload it first", field)
	}
	f, err := m.file(m.call, ringback.ID(found[1]))
	var e *ringback.Error
	if errors.As(err, &e) && e.Code == ringback.NotFound {
		return f, &ringback.Error{Code: e.Code, Message: field + ": " + e.Message}
	}
	return f, err
}

func (m *media) fileBytes(field string, f *ringback.File) ([]byte, error) {
	if err := m.take(field, f.Size); err != nil {
		return nil, err
	}
	r, err := m.Blobs.Open(m.Context(), f.Blob)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data := make([]byte, f.Size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read file %s: %w", f.ID, err)
	}
	return data, nil
}

// decodeBase64 takes both alphabets, with padding or without (the proto-JSON rule).
func decodeBase64(s string) ([]byte, error) {
	s = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	return base64.RawStdEncoding.DecodeString(s)
}

// video reads a stored video job. If the path names a model it must be the
// job's.
func (a *api) video(c *call, id ringback.ID) (*ringback.Job, error) {
	j, err := a.Store.PeekJob(c.Context(), c.project, id)
	if err == nil && (j.Kind != ringback.KindVideo || c.PathValue("model") != "" && c.PathValue("model") != j.Model) {
		err = ringback.NotFound
	}
	return j, notFound(err, "operation", id)
}

func (a *api) getOperation(c *call) (any, error) { return a.sendVideo(c, c.id()) }

func (a *api) sendVideo(c *call, id ringback.ID) (any, error) {
	j, err := a.video(c, id)
	if err != nil {
		return nil, err
	}
	return a.renderVideo(c, j)
}

// renderVideo shows a video job (§6.2). That all was held back for safety is no
// error there, though the job has failed.
func (a *api) renderVideo(c *call, j *ringback.Job) (*genai.VideoOperation, error) {
	const types = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunning"
	op := &genai.VideoOperation{Name: "models/" + j.Model + "/operations/" + string(j.ID), Done: j.State.Final(),
		Metadata: genai.VideoMetadata{Type: types + "Metadata", Model: "models/" + j.Model, State: batchStates[j.State],
			ProgressPercent: j.Progress, CreateTime: wireTime(j.Created), UpdateTime: wireTime(j.Updated)}}
	if !op.Done {
		return op, nil
	}
	op.Metadata.EndTime = wireTime(j.Ended)
	if j.Output == nil {
		f := j.Failure
		if f == nil {
			f = &ringback.Failure{Code: "CANCELLED", Message: "the video was cancelled"}
		}
		op.Error = &genai.RowError{Code: statusNumbers[f.Code], Message: f.Message}
		if op.Error.Code == 0 {
			op.Error.Code = grpcInternal
		}
		return op, nil
	}
	var made genai.VideoOutput
	if err := json.Unmarshal(j.Output, &made); err != nil {
		return nil, fmt.Errorf("output of video %s: %w", j.ID, err)
	}
	op.Response = &genai.VideoResponse{Type: types + "Response", GenerateVideoResponse: genai.GenerateVideoResponse{
		RAIMediaFilteredCount: made.Filtered, RAIMediaFilteredReasons: made.FilteredReasons}}
	if op.Metadata.ProgressPercent = 100; j.State == ringback.Failed {
		op.Metadata.State = "FILTERED"
	}
	for _, name := range made.Files {
		var s genai.GeneratedSample
		s.Video.URI = a.base(c.Request) + "/v1beta/" + name + ":download?alt=media"
		op.Response.GenerateVideoResponse.GeneratedSamples = append(op.Response.GenerateVideoResponse.GeneratedSamples, s)
	}
	return op, nil
}

func (a *api) listOperations(c *call) (any, error) {
	size, before, err := c.place(batchPage, maxBatchPage)
	if err != nil {
		return nil, err
	}
	jobs, next, err := a.Store.ListJobs(c.Context(), c.project, store.JobFilter{Kind: ringback.KindVideo}, before, size)
	if err != nil {
		return nil, err
	}
	var out struct {
		Operations    []*genai.VideoOperation `json:"operations"`
		NextPageToken string                  `json:"nextPageToken,omitempty"`
	}
	out.Operations = []*genai.VideoOperation{}
	for _, listed := range jobs {
		j, err := a.video(c, listed.ID)
		if errors.Is(err, ringback.NotFound) {
			continue // It was deleted just now.
		}
		if err != nil {
			return nil, err
		}
		op, err := a.renderVideo(c, j)
		if err != nil {
			return nil, err
		}
		out.Operations = append(out.Operations, op)
	}
	out.NextPageToken = placeToken(next)
	return out, nil
}

// cancelOperation may come too late: then nothing changes.
func (a *api) cancelOperation(c *call) (any, error) {
	if _, err := a.video(c, c.id()); err != nil {
		return nil, err
	}
	_, err := a.Runner.Cancel(context.WithoutCancel(c.Context()), c.project, c.id())
	if errors.Is(err, ringback.FailedPrecondition) {
		err = nil
	}
	return struct{}{}, notFound(err, "operation", c.id())
}

func (a *api) deleteOperation(c *call) (any, error) {
	if _, err := a.video(c, c.id()); err != nil {
		return nil, err
	}
	return struct{}{}, notFound(a.Runner.Delete(c.Context(), c.project, c.id()), "operation", c.id())
}
