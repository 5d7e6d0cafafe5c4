package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"

	"ringback.dev/internal/genai"
)

type videosCommand struct {
	Create   videosCreate   `cmd:"" help:"Have videos made of a prompt, an image or both."`
	List     videosList     `cmd:"" help:"List video jobs, newest first."`
	Get      videosGet      `cmd:"" help:"Show one video job."`
	Wait     videosWait     `cmd:"" help:"Show a video job's progress until it has ended."`
	Cancel   videosCancel   `cmd:"" help:"Cancel a video job. Nothing of it is kept."`
	Download videosDownload `cmd:"" help:"Download the videos of a job that has ended."`
	Delete   videosDelete   `cmd:"" help:"Remove a video job. Its videos stay until they expire."`
}

type videosCreate struct {
	client
	Prompt         string   `arg:"" help:"What is to be seen."`
	Model          string   `required:"" short:"m" help:"Model that makes the videos."`
	Image          string   `type:"existingfile" placeholder:"FILE" help:"Image to begin with."`
	LastFrame      string   `type:"existingfile" placeholder:"FILE" help:"Image to end with."`
	Count          int      `placeholder:"N" help:"How many videos, 1 to 4."`
	Seconds        int      `placeholder:"N" help:"How long each is."`
	AspectRatio    string   `placeholder:"W:H" help:"16:9 or 9:16."`
	Resolution     string   `placeholder:"NAME" help:"Such as 720p."`
	NegativePrompt string   `placeholder:"TEXT" help:"What is not to be seen."`
	Webhook        []string `placeholder:"URL" help:"Address to call back instead of the project's webhooks."`
	Wait           bool     `help:"Show the progress and return when the job has ended; the exit code is 1 unless there is a video."`
	Out            string   `short:"o" placeholder:"FILE" help:"Wait, and download to this file; further videos get -2, -3, … in their names."`
}

func (c *videosCreate) Run(ctx context.Context, s *streams) (err error) {
	in := genai.VideoInstance{Prompt: c.Prompt}
	if in.Image, err = imageFile(c.Image); err != nil {
		return err
	}
	if in.LastFrame, err = imageFile(c.LastFrame); err != nil {
		return err
	}
	q := genai.GenerateVideos{Instances: []genai.VideoInstance{in}, Parameters: genai.VideoParameters{AspectRatio: c.AspectRatio,
		Resolution: c.Resolution, NegativePrompt: c.NegativePrompt}}
	if c.Count != 0 {
		q.Parameters.SampleCount = strconv.AppendInt(nil, int64(c.Count), 10)
	}
	if c.Seconds != 0 {
		q.Parameters.DurationSeconds = strconv.AppendInt(nil, int64(c.Seconds), 10)
	}
	if len(c.Webhook) > 0 {
		if q.WebhookConfig, err = json.Marshal(map[string]any{"uris": c.Webhook}); err != nil {
			return err
		}
	}
	var op genai.VideoOperation
	if err := c.create(ctx, "/v1beta/models/"+strings.TrimPrefix(c.Model, "models/")+":predictLongRunning", &q, &op); err != nil {
		return err
	}
	if !c.Wait && c.Out == "" {
		if c.JSON {
			return printJSON(s, &op)
		}
		fmt.Fprintln(s.out, op.Name)
		return nil
	}
	if !c.JSON {
		fmt.Fprintln(s.err, op.Name)
	}
	ended, err := c.awaitVideo(ctx, s, op.Name)
	if err != nil || c.Out == "" {
		return err
	}
	return c.saveVideos(ctx, s, ended, c.Out)
}

// imageFile reads an image into a request; nil if there is none.
func imageFile(name string) (*genai.VideoMedia, error) {
	if name == "" {
		return nil, nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	kind := http.DetectContentType(data)
	if !strings.HasPrefix(kind, "image/") {
		return nil, fmt.Errorf("%s is not an image", name)
	}
	return &genai.VideoMedia{MimeType: kind, BytesBase64Encoded: base64.StdEncoding.EncodeToString(data)}, nil
}

// operationPath takes an operation's name, or its id alone.
func operationPath(name string) string {
	return "/operations/" + url.PathEscape(name[strings.LastIndexByte(name, '/')+1:])
}

func (c *client) video(ctx context.Context, name string) (*genai.VideoOperation, error) {
	var op genai.VideoOperation
	return &op, c.call(ctx, http.MethodGet, operationPath(name), nil, &op)
}

// awaitVideo shows the progress of a video job until it has ended, and then the
// job. It is an error if there is no video.
func (c *client) awaitVideo(ctx context.Context, s *streams, name string) (*genai.VideoOperation, error) {
	var op *genai.VideoOperation
	err := await(ctx, s, "percent", func() (at standing, err error) {
		if op, err = c.video(ctx, name); err != nil {
			return at, err
		}
		return standing{have: int64(op.Metadata.ProgressPercent), total: 100, done: op.Done}, nil
	})
	if err == nil {
		err = c.showVideo(s, op)
	}
	if err == nil && (op.Response == nil || len(op.Response.GenerateVideoResponse.GeneratedSamples) == 0) {
		err = silent(1)
	}
	return op, err
}

// showVideo prints one video job.
func (c *client) showVideo(s *streams, op *genai.VideoOperation) error {
	if c.JSON {
		return printJSON(s, op)
	}
	m := &op.Metadata
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "operation\t%s\nmodel\t%s\nstate\t%s\n", op.Name, strings.TrimPrefix(m.Model, "models/"), strings.ToLower(m.State))
	if op.Error != nil {
		fmt.Fprintf(t, "reason\t%s\n", op.Error.Message)
	}
	if !op.Done {
		fmt.Fprintf(t, "progress\t%d %%\n", m.ProgressPercent)
	}
	fmt.Fprintf(t, "created\t%s\n", local(m.CreateTime))
	if m.EndTime != "" {
		fmt.Fprintf(t, "ended\t%s\n", local(m.EndTime))
	}
	if op.Response != nil {
		r := &op.Response.GenerateVideoResponse
		if r.RAIMediaFilteredCount > 0 {
			fmt.Fprintf(t, "held back\t%d: %s\n", r.RAIMediaFilteredCount, strings.Join(r.RAIMediaFilteredReasons, "; "))
		}
		for _, v := range r.GeneratedSamples {
			fmt.Fprintf(t, "video\t%s\n", fileName(v.Video.URI))
		}
	}
	return t.Flush()
}

// fileInURI is how the SDKs, too, find a file in its address.
var fileInURI = regexp.MustCompile(`files/[a-z0-9]+`)

func fileName(uri string) string { return fileInURI.FindString(uri) }

// saveVideos downloads the videos of a job. An empty name means that of the file on
// the server.
func (c *client) saveVideos(ctx context.Context, s *streams, op *genai.VideoOperation, to string) error {
	for i, v := range op.Response.GenerateVideoResponse.GeneratedSamples {
		file := fileName(v.Video.URI)
		name := to
		switch ext := filepath.Ext(to); {
		case to == "":
			name = strings.TrimPrefix(file, "files/") + ".mp4"
		case i > 0:
			name = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(to, ext), i+1, ext)
		}
		if err := c.saveFile(ctx, file, name); err != nil {
			return err
		}
		fmt.Fprintln(s.err, "saved", name)
	}
	return nil
}

// saveFile downloads a file. What breaks off is removed.
func (c *client) saveFile(ctx context.Context, file, name string) error {
	resp, err := c.send(ctx, http.MethodGet, strings.TrimRight(c.Server, "/")+"/v1beta/"+file+":download?alt=media", nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, resp.Body)
	if err != nil {
		err = fmt.Errorf("%s broke off after %d bytes: %w", file, n, err)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

type videosList struct {
	client
	Limit int `default:"50" help:"At most so many; 0 for all."`
}

func (c *videosList) Run(ctx context.Context, s *streams) error {
	all, err := operations[genai.VideoOperation](ctx, &c.client, "/operations", c.Limit)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s, map[string]any{"operations": all})
	}
	if len(all) == 0 {
		fmt.Fprintln(s.out, "no videos")
		return nil
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CREATED\tSTATE\tDONE\tVIDEOS\tOPERATION")
	for i := range all {
		m, videos := &all[i].Metadata, 0
		if r := all[i].Response; r != nil {
			videos = len(r.GenerateVideoResponse.GeneratedSamples)
		}
		fmt.Fprintf(t, "%s\t%s\t%d %%\t%d\t%s\n", local(m.CreateTime), strings.ToLower(m.State), m.ProgressPercent, videos, all[i].Name)
	}
	return t.Flush()
}

type videosGet struct {
	client
	Name string `arg:"" help:"The operation's name."`
}

func (c *videosGet) Run(ctx context.Context, s *streams) error {
	op, err := c.video(ctx, c.Name)
	if err != nil {
		return err
	}
	return c.showVideo(s, op)
}

type videosWait struct {
	client
	Name string `arg:"" help:"The operation's name."`
}

func (c *videosWait) Run(ctx context.Context, s *streams) error {
	_, err := c.awaitVideo(ctx, s, c.Name)
	return err
}

type videosCancel struct {
	client
	Name string `arg:"" help:"The operation's name."`
}

func (c *videosCancel) Run(ctx context.Context, s *streams) error {
	var none struct{}
	if err := c.call(ctx, http.MethodPost, operationPath(c.Name)+":cancel", nil, &none); err != nil {
		return err
	}
	op, err := c.video(ctx, c.Name)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.out, strings.ToLower(op.Metadata.State))
	return nil
}

type videosDelete struct {
	client
	Name string `arg:"" help:"The operation's name."`
}

func (c *videosDelete) Run(ctx context.Context, s *streams) error {
	var none struct{}
	if err := c.call(ctx, http.MethodDelete, operationPath(c.Name), nil, &none); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "deleted")
	return nil
}

type videosDownload struct {
	client
	Name string `arg:"" help:"The operation's name."`
	Out  string `short:"o" placeholder:"FILE" help:"File to write to, instead of one named as on the server; further videos get -2, -3, … in their names."`
}

func (c *videosDownload) Run(ctx context.Context, s *streams) error {
	op, err := c.video(ctx, c.Name)
	switch {
	case err != nil:
		return err
	case !op.Done:
		return fmt.Errorf("the video is %s, %d %% are done; see ringback videos wait %s", strings.ToLower(op.Metadata.State), op.Metadata.ProgressPercent, op.Name)
	case op.Error != nil:
		return fmt.Errorf("there is no video: %s", op.Error.Message)
	case len(op.Response.GenerateVideoResponse.GeneratedSamples) == 0:
		return fmt.Errorf("there is no video: all were held back for safety: %s", strings.Join(op.Response.GenerateVideoResponse.RAIMediaFilteredReasons, "; "))
	}
	return c.saveVideos(ctx, s, op, c.Out)
}
