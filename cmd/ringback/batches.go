package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"ringback.dev/internal/genai"
)

type batchesCommand struct {
	Create  batchesCreate  `cmd:"" help:"Upload a file of requests, one JSON object per line, and run them as a batch."`
	List    batchesList    `cmd:"" help:"List batches, newest first."`
	Get     batchesGet     `cmd:"" help:"Show one batch."`
	Wait    batchesWait    `cmd:"" help:"Show a batch's progress until it has ended."`
	Cancel  batchesCancel  `cmd:"" help:"Cancel a batch. What is finished is kept."`
	Results batchesResults `cmd:"" help:"Print the results of a batch, a line for each row of its input."`
	Delete  batchesDelete  `cmd:"" help:"Remove a batch. A file of results stays until it expires."`
}

type batchesCreate struct {
	client
	File     string   `arg:"" type:"existingfile" help:"JSON Lines: {\"key\":\"a\",\"request\":{\"contents\":[{\"parts\":[{\"text\":\"…\"}]}]}}"`
	Model    string   `required:"" short:"m" help:"Model that answers the rows."`
	Embed    bool     `help:"The rows ask for embeddings."`
	Name     string   `help:"Display name; the file's name if none is given."`
	Priority int64    `help:"Batches of a higher priority go first."`
	Webhook  []string `placeholder:"URL" help:"Address to call back instead of the project's webhooks."`
	Wait     bool     `help:"Show the progress and return when the batch has ended; the exit code is 1 unless it succeeded."`
}

func (c *batchesCreate) Run(ctx context.Context, s *streams) error {
	f, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	if c.Name == "" {
		c.Name = filepath.Base(c.File)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	shown := newProgress(s.err, "upload", true, time.Now())
	shown.set(0, info.Size(), "", time.Now())
	file, err := c.upload(ctx, f, c.Name, "application/jsonl", func(n int64) { shown.set(n, info.Size(), "", time.Now()) })
	shown.end(time.Now())
	if err != nil {
		return err
	}
	var q genai.CreateBatch
	q.Batch.DisplayName, q.Batch.Priority, q.Batch.InputConfig.FileName = c.Name, genai.Int64(c.Priority), file
	if len(c.Webhook) > 0 {
		if q.Batch.WebhookConfig, err = json.Marshal(map[string]any{"uris": c.Webhook}); err != nil {
			return err
		}
	}
	verb := ":batchGenerateContent"
	if c.Embed {
		verb = ":asyncBatchEmbedContent"
	}
	var op genai.BatchOperation
	if err := c.create(ctx, "/v1beta/models/"+strings.TrimPrefix(c.Model, "models/")+verb, &q, &op); err != nil {
		return err
	}
	if !c.Wait {
		if c.JSON {
			return printJSON(s, &op)
		}
		fmt.Fprintln(s.out, op.Name)
		return nil
	}
	if !c.JSON {
		fmt.Fprintln(s.err, op.Name)
	}
	return c.awaitBatch(ctx, s, op.Name)
}

// batchName takes an id with or without its collection.
func batchName(id string) string {
	return "batches/" + url.PathEscape(strings.TrimPrefix(id, "batches/"))
}

func (c *client) batch(ctx context.Context, id string) (*genai.BatchOperation, error) {
	var op genai.BatchOperation
	return &op, c.call(ctx, http.MethodGet, "/"+batchName(id), nil, &op)
}

// state is a batch's state in lower case, without the wire's prefix.
func state(op *genai.BatchOperation) string {
	return strings.ToLower(strings.TrimPrefix(op.Metadata.State, "BATCH_STATE_"))
}

// awaitBatch shows the progress of a batch until it has ended, and then the batch.
func (c *client) awaitBatch(ctx context.Context, s *streams, id string) error {
	var op *genai.BatchOperation
	err := await(ctx, s, "rows", func() (at standing, err error) {
		if op, err = c.batch(ctx, id); err != nil {
			return at, err
		}
		n := op.Metadata.BatchStats
		at = standing{have: int64(n.SuccessfulRequestCount + n.FailedRequestCount), total: int64(n.RequestCount), done: op.Done}
		if n.FailedRequestCount > 0 {
			at.note = thousands(int64(n.FailedRequestCount)) + " failed"
		}
		return at, nil
	})
	if err == nil {
		err = c.showBatch(s, op)
	}
	if err == nil && state(op) != "succeeded" {
		err = silent(1)
	}
	return err
}

// showBatch prints one batch.
func (c *client) showBatch(s *streams, op *genai.BatchOperation) error {
	if c.JSON {
		return printJSON(s, op)
	}
	m := &op.Metadata
	n := m.BatchStats
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "batch\t%s\nname\t%s\nmodel\t%s\nstate\t%s\n", op.Name, m.DisplayName, strings.TrimPrefix(m.Model, "models/"), state(op))
	if op.Error != nil {
		fmt.Fprintf(t, "reason\t%s\n", op.Error.Message)
	}
	fmt.Fprintf(t, "rows\t%s: %s succeeded, %s failed, %s not run\ncreated\t%s\n", thousands(int64(n.RequestCount)), thousands(int64(n.SuccessfulRequestCount)),
		thousands(int64(n.FailedRequestCount)), thousands(int64(n.PendingRequestCount)), local(m.CreateTime))
	if m.EndTime != "" {
		fmt.Fprintf(t, "ended\t%s\n", local(m.EndTime))
	}
	if op.Dest != nil {
		fmt.Fprintf(t, "results\t%s\n", op.Dest.FileName)
	}
	return t.Flush()
}

type batchesList struct {
	client
	Limit int `default:"50" help:"At most so many; 0 for all."`
}

func (c *batchesList) Run(ctx context.Context, s *streams) error {
	all, err := operations[genai.BatchOperation](ctx, &c.client, "/batches", c.Limit)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s, map[string]any{"operations": all})
	}
	if len(all) == 0 {
		fmt.Fprintln(s.out, "no batches")
		return nil
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CREATED\tSTATE\tROWS\tFAILED\tMODEL\tNAME\tBATCH")
	for i := range all {
		m := &all[i].Metadata
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", local(m.CreateTime), state(&all[i]), thousands(int64(m.BatchStats.RequestCount)),
			thousands(int64(m.BatchStats.FailedRequestCount)), strings.TrimPrefix(m.Model, "models/"), m.DisplayName, all[i].Name)
	}
	return t.Flush()
}

type batchesGet struct {
	client
	ID string `arg:"" help:"The batch's name."`
}

func (c *batchesGet) Run(ctx context.Context, s *streams) error {
	op, err := c.batch(ctx, c.ID)
	if err != nil {
		return err
	}
	return c.showBatch(s, op)
}

type batchesWait struct {
	client
	ID string `arg:"" help:"The batch's name."`
}

func (c *batchesWait) Run(ctx context.Context, s *streams) error { return c.awaitBatch(ctx, s, c.ID) }

type batchesCancel struct {
	client
	ID string `arg:"" help:"The batch's name."`
}

func (c *batchesCancel) Run(ctx context.Context, s *streams) error {
	var none struct{}
	if err := c.call(ctx, http.MethodPost, "/"+batchName(c.ID)+":cancel", nil, &none); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "asked to cancel; see ringback batches get", strings.TrimPrefix(c.ID, "batches/"))
	return nil
}

type batchesDelete struct {
	client
	ID string `arg:"" help:"The batch's name."`
}

func (c *batchesDelete) Run(ctx context.Context, s *streams) error {
	var none struct{}
	if err := c.call(ctx, http.MethodDelete, "/"+batchName(c.ID), nil, &none); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "deleted")
	return nil
}

type batchesResults struct {
	client
	ID     string `arg:"" help:"The batch's name."`
	Output string `short:"o" placeholder:"FILE" help:"File to write to instead of the standard output."`
}

func (c *batchesResults) Run(ctx context.Context, s *streams) (err error) {
	op, err := c.batch(ctx, c.ID)
	if err != nil {
		return err
	}
	n := op.Metadata.BatchStats
	output := op.Metadata.Output
	switch {
	case !op.Done:
		return fmt.Errorf("the batch is %s, %s of %s rows are done; see ringback batches wait %s", state(op),
			thousands(int64(n.SuccessfulRequestCount+n.FailedRequestCount)), thousands(int64(n.RequestCount)), c.ID)
	case output == nil && op.Error != nil:
		return fmt.Errorf("the batch is %s and has no results: %s", state(op), op.Error.Message)
	case output == nil:
		return fmt.Errorf("the batch is %s and has no results", state(op))
	}
	to := s.out
	if c.Output != "" {
		f, err := os.Create(c.Output)
		if err != nil {
			return err
		}
		defer func() {
			if e := f.Close(); err == nil {
				err = e
			}
		}()
		to = f
	}
	if output.InlinedResponses != nil {
		w := bufio.NewWriter(to)
		for _, line := range output.InlinedResponses.InlinedResponses {
			w.Write(line) // What goes wrong is told by Flush.
			w.WriteByte('\n')
		}
		return w.Flush()
	}
	resp, err := c.send(ctx, http.MethodGet, strings.TrimRight(c.Server, "/")+"/v1beta/"+output.ResponsesFile+":download?alt=media", nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	copied, err := io.Copy(to, resp.Body)
	if err != nil {
		return fmt.Errorf("the results broke off after %s bytes: %w", strconv.FormatInt(copied, 10), err)
	}
	return nil
}
