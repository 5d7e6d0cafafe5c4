package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
)

type jobsCommand struct {
	List     jobsList     `cmd:"" help:"List jobs, newest first."`
	Timeline jobsTimeline `cmd:"" help:"Tell the story of a job, and why there was a callback or none."`
}

// jobAnswer is what is read of a job.
type jobAnswer struct {
	ID      string `json:"id"`
	Kind    string `json:"kind"`
	State   string `json:"state"`
	Model   string `json:"model"`
	Created string `json:"created"`
	Ended   string `json:"ended"`
}

type jobsList struct {
	client
	Kind  string `placeholder:"KIND" help:"Only jobs of this kind: interaction, batch or video."`
	State string `placeholder:"STATE" help:"Only jobs in this state, such as running or failed."`
	Limit int    `default:"50" help:"At most so many; 0 for all."`
}

func (c *jobsList) Run(ctx context.Context, s *streams) error {
	q := url.Values{}
	set(q, "kind", c.Kind)
	set(q, "state", c.State)
	if c.JSON {
		all, err := pages[map[string]any](ctx, &c.client, "jobs", q, "before", "jobs", c.Limit)
		if err != nil {
			return err
		}
		return printJSON(s, map[string]any{"jobs": all})
	}
	all, err := pages[jobAnswer](ctx, &c.client, "jobs", q, "before", "jobs", c.Limit)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(s.out, "no jobs")
		return nil
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CREATED\tKIND\tSTATE\tMODEL\tJOB")
	for _, j := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", local(j.Created), j.Kind, j.State, j.Model, j.ID)
	}
	return t.Flush()
}

type jobsTimeline struct {
	client
	ID string `arg:"" help:"The job's id."`
}

func (c *jobsTimeline) Run(ctx context.Context, s *streams) error {
	path := "jobs/" + url.PathEscape(c.ID) + "/timeline"
	if c.JSON {
		return c.raw(ctx, s, http.MethodGet, path, nil)
	}
	var v struct {
		Job      jobAnswer
		Timeline []struct {
			At      string
			AfterMS float64 `json:"after_ms"`
			What    string
			Detail  string
		}
		Why string
	}
	if err := c.manage(ctx, http.MethodGet, path, nil, &v); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s, %s, since %s\n\n  %12s\n", v.Job.ID, v.Job.State, local(v.Job.Created), "ms")
	for _, e := range v.Timeline {
		mark := "·"
		switch e.What {
		case "delivered":
			mark = "✓"
		case "failed":
			mark = "✗"
		}
		fmt.Fprintf(s.out, "  %12.1f  %s %-10s %s\n", e.AfterMS, mark, e.What, e.Detail)
	}
	fmt.Fprintf(s.out, "\n%s\n", v.Why)
	return nil
}
