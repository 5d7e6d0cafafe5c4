package emulator

import (
	"bytes"
	"context"
	_ "embed" // For the videos.
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"

	"ringback.dev/internal/backend"
)

// The videos are made by scripts/emulator-videos.sh. Their pictures say that no
// model ran.
var (
	//go:embed videos/landscape.mp4
	landscape []byte
	//go:embed videos/portrait.mp4
	portrait []byte
)

// videoSteps is in how many steps a delay passes. Each is noted, so that a run that
// was cut off goes on rather than begins again.
const videoSteps = 10

// MakeVideos implements backend.VideoMaker. Every prompt gets the same picture; the
// file's title tells the prompt.
func (b *Backend) MakeVideos(ctx context.Context, req *backend.VideoRequest, out backend.VideoOutput) (*backend.VideoResult, error) {
	picture := landscape
	switch req.AspectRatio {
	case "", "16:9":
	case "9:16":
		picture = portrait
	default:
		return nil, &backend.Error{Kind: backend.InvalidRequest, Message: fmt.Sprintf("parameters.aspectRatio: the emulator has 16:9 and 9:16, not %q", req.AspectRatio)}
	}
	rule := b.scenario.matchVideo(req)
	if err := rule.fail(); err != nil {
		if e := rule.wait(ctx, rule.delay()); e != nil {
			return nil, e
		}
		return nil, err
	}
	if err := rule.pass(ctx, req.Checkpoint, out); err != nil {
		return nil, err
	}
	var held backend.VideoResult
	if rule != nil && rule.Filtered != nil {
		held.Filtered, held.FilteredReasons = req.Count, rule.Filtered.Reasons
		if n := rule.Filtered.Count; n > 0 {
			held.Filtered = min(n, req.Count)
		}
	}
	made := req.Count - held.Filtered
	for i := range made {
		title := fmt.Sprintf("[ringback emulator] No model ran. %s was asked %q (video %d of %d, digest %s).", req.Model, shorten(req.Prompt), i+1, made, videoDigest(req))
		w, err := out.Create(ctx, "video/mp4")
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(titled(picture, title)); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
	}
	return &held, nil
}

// pass lets the rule's delay pass, step by step from where an earlier run was.
func (r *Rule) pass(ctx context.Context, checkpoint []byte, out backend.VideoOutput) error {
	step, err := strconv.Atoi(string(checkpoint))
	if err != nil || step < 0 {
		step = 0
	}
	for ; step < videoSteps; step++ {
		if step == 0 || r.delay() > 0 {
			if err := out.Note(ctx, strconv.AppendInt(nil, int64(step), 10)); err != nil {
				return err
			}
		}
		if err := r.wait(ctx, r.delay()/videoSteps); err != nil {
			return err
		}
		out.Progress((step + 1) * 100 / videoSteps)
	}
	return nil
}

// titled adds a title to an MP4. Its list of metadata is the last thing in the file,
// and empty.
func titled(video []byte, title string) []byte {
	be := binary.BigEndian
	out := bytes.Clone(video)
	out = be.AppendUint32(out, uint32(24+len(title)))
	out = be.AppendUint32(append(out, "\xa9nam"...), uint32(16+len(title)))
	out = be.AppendUint32(append(out, "data"...), 1) // UTF-8.
	out = append(be.AppendUint32(out, 0), title...)
	for _, box := range []string{"moov", "udta", "meta", "ilst"} { // Each holds the next and ends with the file.
		at := bytes.LastIndex(video, []byte(box)) - 4
		be.PutUint32(out[at:], uint32(len(out)-at))
	}
	return out
}

// videoDigest is a short hash of all that was asked for.
func videoDigest(req *backend.VideoRequest) string {
	own := *req
	own.Checkpoint = nil
	h := fnv.New32a()
	if err := json.NewEncoder(h).Encode(own); err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%08x", h.Sum32())
}
