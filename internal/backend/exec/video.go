package exec

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/genai"
)

// videoInput is what a command gets for a video.
type videoInput struct {
	Kind      string       `json:"kind"` // "video"
	Model     string       `json:"model"`
	Request   videoRequest `json:"request"`
	OutputDir string       `json:"output_dir"`
	// Checkpoint is the state that the latest run of the same job printed.
	Checkpoint json.RawMessage `json:"checkpoint,omitempty"`
}

type videoRequest struct {
	Prompt           string       `json:"prompt,omitempty"`
	NegativePrompt   string       `json:"negative_prompt,omitempty"`
	Image            *mediaFile   `json:"image,omitempty"`
	LastFrame        *mediaFile   `json:"last_frame,omitempty"`
	Video            *mediaFile   `json:"video,omitempty"`
	References       []*mediaFile `json:"references,omitempty"`
	Count            int          `json:"count"`
	DurationSeconds  int          `json:"duration_seconds,omitempty"`
	AspectRatio      string       `json:"aspect_ratio,omitempty"`
	Resolution       string       `json:"resolution,omitempty"`
	PersonGeneration string       `json:"person_generation,omitempty"`
	EnhancePrompt    *bool        `json:"enhance_prompt,omitempty"`
	Seed             *int64       `json:"seed,omitempty"`
}

// mediaFile is media of the request, as a file. Type is of references only.
type mediaFile struct {
	Path     string `json:"path"`
	MimeType string `json:"mime_type,omitempty"`
	Type     string `json:"type,omitempty"`
}

// MakeVideos implements backend.VideoMaker.
func (b *Backend) MakeVideos(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
	j, err := b.job()
	if err != nil {
		return nil, err
	}
	defer b.closeJob(j)
	in := videoInput{Kind: "video", Model: req.Model, OutputDir: j.outputDir()}
	if json.Valid(req.Checkpoint) { // Another kind of back-end may have noted it.
		in.Checkpoint = req.Checkpoint
	}
	if in.Request, err = j.request(req); err != nil {
		return nil, err
	}
	res, err := b.run(ctx, j, in, func(line any) error {
		switch l := line.(type) {
		case *progress:
			out.Progress(int(l.Percent))
			b.log.Debug("the command makes progress", "percent", l.Percent, "message", l.Message)
		case *checkpoint:
			return out.Note(ctx, l.State)
		}
		return nil // A video has no text.
	})
	if err != nil {
		return nil, err
	}
	if len(res.Files) == 0 && res.Filtered.Count == 0 {
		return nil, &backend.Error{Kind: backend.Internal, Message: "the command's result has neither files nor a filtered.count"}
	}
	if len(res.Files) > req.Count {
		return nil, &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the command's result has %d files where %d were wanted", len(res.Files), req.Count)}
	}
	left := b.most
	for i := range res.Files {
		n, err := b.take(ctx, j, i, &res.Files[i], left, out)
		if err != nil {
			return nil, err
		}
		left -= n
	}
	return &backend.VideoResult{Filtered: res.Filtered.Count, FilteredReasons: res.Filtered.Reasons}, nil
}

// request puts a request into words for a command, and its media into files.
func (j *job) request(req *backend.VideoRequest) (videoRequest, error) {
	r := videoRequest{Prompt: req.Prompt, NegativePrompt: req.NegativePrompt, Count: req.Count, DurationSeconds: req.DurationSeconds, AspectRatio: req.AspectRatio,
		Resolution: req.Resolution, PersonGeneration: req.PersonGeneration, EnhancePrompt: req.EnhancePrompt, Seed: req.Seed}
	for _, m := range []struct {
		field, name string
		from        *genai.Blob
		to          **mediaFile
	}{
		{"image", "image", req.Image, &r.Image}, {"lastFrame", "last_frame", req.LastFrame, &r.LastFrame}, {"video", "video", req.Video, &r.Video},
	} {
		if m.from == nil {
			continue
		}
		f, err := j.media(m.name, m.field, m.from)
		if err != nil {
			return r, err
		}
		*m.to = f
	}
	for i, ref := range req.References {
		field := fmt.Sprintf("referenceImages[%d].image", i)
		if ref.Image == nil {
			return r, &backend.Error{Kind: backend.InvalidRequest, Message: field + ": it is required"}
		}
		f, err := j.media(fmt.Sprintf("reference_%d", i), field, ref.Image)
		if err != nil {
			return r, err
		}
		f.Type = ref.Type
		r.References = append(r.References, f)
	}
	return r, nil
}

// suffixes of files by their type. What is not among them has none: the command is told
// the type.
var suffixes = map[string]string{"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif",
	"video/mp4": ".mp4", "video/webm": ".webm", "video/quicktime": ".mov", "video/mpeg": ".mpg"}

// media writes media of the request into a file.
func (j *job) media(name, field string, from *genai.Blob) (*mediaFile, error) {
	f := &mediaFile{Path: filepath.Join(j.input, name+suffixes[from.MimeType]), MimeType: from.MimeType}
	file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = io.Copy(file, base64.NewDecoder(base64.StdEncoding, strings.NewReader(from.Data)))
		err = errors.Join(err, file.Close())
	}
	var corrupt base64.CorruptInputError
	switch {
	case errors.As(err, &corrupt), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, &backend.Error{Kind: backend.InvalidRequest, Message: field + ": its data is not base64"}
	case err != nil:
		return nil, &backend.Error{Kind: backend.Unavailable, Message: "the request's media can't be written", Cause: err}
	}
	return f, nil
}

// types of videos by the end of their name, for a command that does not tell.
var types = map[string]string{".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime", ".mpg": "video/mpeg"}

// take copies a file of the result to where videos are kept, and returns its size,
// of which at most left may be.
func (b *Backend) take(ctx context.Context, j *job, i int, from *outputFile, left int64, out backend.VideoOutput) (int64, error) {
	wrong := func(format string, args ...any) (int64, error) {
		return 0, &backend.Error{Kind: backend.Internal, Message: fmt.Sprintf("the command's result: files[%d]: ", i) + fmt.Sprintf(format, args...)}
	}
	mimeType := from.MimeType
	if mimeType == "" {
		mimeType = types[strings.ToLower(filepath.Ext(from.Path))]
	}
	if media, _, err := mime.ParseMediaType(mimeType); err != nil || !strings.Contains(media, "/") {
		return wrong("mime_type %q is not a type such as video/mp4", mimeType)
	}
	name := from.Path
	if filepath.IsAbs(name) {
		if rel, err := filepath.Rel(j.outputDir(), name); err == nil {
			name = rel
		}
	}
	// The root lets no path out, be it by .. or by a link. A named pipe would hold us
	// up without O_NONBLOCK.
	f, err := j.output.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return wrong("there is no %q in the output folder", from.Path)
	} else if err != nil {
		b.log.Debug("a file of the command's result can't be opened", "path", from.Path, "error", err)
		return wrong("path %q can't be opened within the output folder", from.Path)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return wrong("%q is not a file with something in it", from.Path)
	}
	w, err := out.Create(ctx, mimeType)
	if err != nil {
		return 0, fmt.Errorf("begin a video: %w", err)
	}
	n, err := io.Copy(w, io.LimitReader(reader(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return f.Read(p)
	}), left+1))
	if err != nil {
		return 0, fmt.Errorf("copy a video: %w", err)
	}
	if n > left {
		return 0, b.tooLarge()
	}
	if err := w.Close(); err != nil {
		return 0, fmt.Errorf("keep a video: %w", err)
	}
	return n, nil
}

// reader is a function that reads.
type reader func([]byte) (int, error)

// Read implements io.Reader.
func (r reader) Read(p []byte) (int, error) { return r(p) }
