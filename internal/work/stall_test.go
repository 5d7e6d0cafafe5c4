package work_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringback.dev"
	"ringback.dev/internal/work"
)

// TestStalled: a job that passes its deadline is told of once, and may still end.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w := newWorld(t, func(_ context.Context, prompt string) (string, error) {
			if prompt == "slow" {
				<-release
			}
			return "done", nil
		}, func(c *work.Config) { c.StallAfter = 10 * time.Minute })
		synctest.Wait()
		slow := w.submit("slow")
		quick := w.submit("quick")
		if j := w.wait(); j.ID != quick.ID {
			t.Fatalf("%s ended first", j.ID)
		}
		events := func(id ringback.ID) (types []string) {
			t.Helper()
			all, err := w.st.JobEvents(context.Background(), "p", id)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				types = append(types, string(e.Type))
			}
			return types
		}
		time.Sleep(9 * time.Minute) // Bubble time.
		if got := events(slow.ID); len(got) != 0 {
			t.Errorf("told too early: %v", got)
		}
		time.Sleep(time.Hour) // Bubble time.
		if got := strings.Join(events(slow.ID), " "); got != "job.stalled" {
			t.Errorf("got %q", got)
		}
		all, err := w.st.JobEvents(context.Background(), "p", slow.ID)
		if err != nil {
			t.Fatal(err)
		}
		if body := string(all[0].Body); !strings.Contains(body, `"data":{"id":"`+string(slow.ID)+`","kind":"interaction","state":"running","create_time":"2000-01-01T00:00:00Z"}`) {
			t.Errorf("got body %s", body)
		}
		close(release)
		if j := w.wait(); j.State != ringback.Completed {
			t.Errorf("ended %s", j.State)
		}
		if got := strings.Join(events(slow.ID), " "); got != "job.stalled interaction.completed" {
			t.Errorf("got %q", got)
		}
		if got := strings.Join(events(quick.ID), " "); got != "interaction.completed" {
			t.Errorf("got %q", got)
		}
		w.stop(time.Second)
	})
}
