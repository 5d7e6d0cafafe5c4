package reconcile

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/internal/emit"
	"ringback.dev/internal/genai"
	"ringback.dev/internal/store"
)

// GeminiURL is where Google serves its API.
const GeminiURL = "https://generativelanguage.googleapis.com"

// google is the Gemini API as a source. It can tell of batches only: there is no
// list of interactions or videos.
type google struct{ api }

// Gemini is the source that asks Google's API, or one like it, with an API key. The
// API does not know what was acknowledged: the ledger does.
func Gemini(address, key string) Source {
	return &google{newAPI(address, key)}
}

// Find implements Source.
func (s *google) Find(ctx context.Context, o Options) (*Report, error) {
	r := &Report{Gaps: []Gap{}}
	q := url.Values{"pageSize": {"100"}}
	for {
		var page struct {
			Operations []genai.BatchOperation
			Next       string `json:"nextPageToken"`
		}
		if err := s.call(ctx, http.MethodGet, "/v1beta/batches?"+q.Encode(), &page); err != nil {
			return nil, err
		}
		for i := range page.Operations {
			op := &page.Operations[i]
			g, ended, err := s.gap(op)
			if err != nil {
				return nil, fmt.Errorf("batch %q: %w", op.Name, err)
			}
			if !ended || g.Ended.Before(o.Since) {
				continue // The list is by creation: an older one may have ended later.
			}
			r.Ended++
			if !o.Ledger.Has(g.Job) {
				r.Gaps = append([]Gap{g}, r.Gaps...) // The list is newest first.
			}
		}
		if page.Next == "" || len(page.Operations) == 0 {
			return r, nil
		}
		q.Set("pageToken", page.Next)
	}
}

// ends are the final states of batches.
var ends = map[string]ringback.State{"SUCCEEDED": ringback.Completed, "FAILED": ringback.Failed, "CANCELLED": ringback.Cancelled, "EXPIRED": ringback.Expired}

// codes are the names of the codes of google.rpc that batches end with.
var codes = map[int]string{1: "CANCELLED", 2: "UNKNOWN", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED",
	9: "FAILED_PRECONDITION", 10: "ABORTED", 13: "INTERNAL", 14: "UNAVAILABLE", 16: "UNAUTHENTICATED"}

// gap makes the event that tells of a batch's end, as the API would send it.
func (s *google) gap(op *genai.BatchOperation) (g Gap, ended bool, err error) {
	m := &op.Metadata
	_, state, _ := strings.Cut(m.State, "_STATE_")
	final, ended := ends[state]
	if !ended {
		return g, false, nil
	}
	at, err := time.Parse(time.RFC3339Nano, m.EndTime)
	if err != nil {
		if at, err = time.Parse(time.RFC3339Nano, m.UpdateTime); err != nil {
			return g, false, fmt.Errorf("its time can't be read: %w", err)
		}
	}
	n := m.BatchStats
	job := &ringback.Job{ID: ringback.ID(strings.TrimPrefix(op.Name, "batches/")), Kind: ringback.KindBatch}
	end := &store.End{State: final, At: at, Rows: ringback.RowCounts{Total: int64(n.RequestCount), Succeeded: int64(n.SuccessfulRequestCount), Failed: int64(n.FailedRequestCount)}}
	for _, out := range []*genai.BatchOutput{m.Output, op.Response} {
		if out != nil && out.ResponsesFile != "" && end.Files == nil {
			end.Files = []ringback.File{{ID: ringback.ID(strings.TrimPrefix(out.ResponsesFile, "files/"))}}
		}
	}
	if final == ringback.Failed {
		end.Failure = &ringback.Failure{Code: "UNKNOWN"}
		if op.Error != nil {
			end.Failure = &ringback.Failure{Code: cmp.Or(codes[op.Error.Code], "UNKNOWN"), Message: op.Error.Message}
		}
	}
	t, body := emit.Ended(job, end, strings.TrimRight(s.base, "/"))
	return Gap{Job: op.Name, Type: string(t), Ended: at, Why: NotCollected, Detail: m.DisplayName, ID: MessageID(t, op.Name), Body: string(body)}, true, nil
}

// MessageID is the webhook-id of the message that tells of a batch's end when it was
// found by asking the Gemini API: the same every time, so that a receiver acts on it
// once.
func MessageID(t ringback.EventType, batch string) string {
	id := sha256.Sum256([]byte(string(t) + " batches/" + bare(batch)))
	return "msg_" + hex.EncodeToString(id[:13])
}

// Close implements Source: the API sends nothing again.
func (s *google) Close(context.Context, *Gap) (bool, error) { return false, ErrPost }
