package ringback_test

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ringback.dev"
)

// TestBackoff: whatever happens, the next attempt lies ahead, inside the window,
// no sooner than the receiver asked, and the schedule comes to an end.
func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := ringback.DefaultBackoff()
		born := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
		now := born
		attempts := 0
		for {
			attempts++
			wait := time.Duration(rapid.Int64Range(0, int64(30*time.Hour)).Draw(t, "wait"))
			if rapid.Bool().Draw(t, "none") {
				wait = 0
			}
			due, again := b.Next(attempts, born, now, wait, rapid.Float64Range(0, 0.999999).Draw(t, "random"))
			if !again {
				break
			}
			last := born.Add(24*time.Hour - time.Minute) // Of a receiver that asks for more time than there is.
			if !due.After(now) || !due.Before(born.Add(24*time.Hour)) || due.Before(now.Add(wait)) && !due.Equal(last) {
				t.Fatalf("after attempt %d at %s the next is due at %s", attempts, now.Sub(born), due.Sub(born))
			}
			now = due
		}
		if attempts > 25 {
			t.Fatalf("%d attempts", attempts)
		}
	})
}

func TestStates(t *testing.T) {
	all := []ringback.State{ringback.Pending, ringback.Running, ringback.Completed, ringback.RequiresAction, ringback.Incomplete, ringback.Failed, ringback.Cancelled}
	for _, from := range all {
		for _, to := range all {
			want := !from.Final() && (to.Final() || from != to)
			if got := from.CanBecome(to); got != want {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
	}
}

func TestIDs(t *testing.T) {
	now := time.Now()
	for id, form := range map[ringback.ID]string{
		ringback.NewID("msg", now):        `^msg_[0-9a-z]{26}$`,
		ringback.NewInteractionID(now):    `^v1_[A-Za-z0-9_-]+$`,
		ringback.NewEndpointID(now):       `^[a-z0-9]{36}$`,
		ringback.NewID("x", time.Time{}):  `^x_[0-9a-z]{26}$`,
		ringback.NewID("y", now.Add(1e9)): `^y_[0-9a-z]{26}$`,
	} {
		if !regexp.MustCompile(form).MatchString(string(id)) {
			t.Errorf("%s does not match %s", id, form)
		}
	}
	var ids []ringback.ID
	for i := range 1000 {
		ids = append(ids, ringback.NewID("a", now.Add(time.Duration(i)*time.Millisecond)))
	}
	if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		t.Error("ids are not in the order of time, or not unique")
	}
}

func TestEventTypes(t *testing.T) {
	for _, known := range ringback.EventTypes() {
		if got, err := ringback.ParseEventType(string(known)); err != nil || got != known {
			t.Errorf("%s: got %s, %v", known, got, err)
		}
	}
	if got, err := ringback.ParseEventType("batch.completed"); err != nil || got != ringback.BatchSucceeded {
		t.Errorf("the alias: got %s, %v", got, err)
	}
	for _, unknown := range []string{"", "ping", "no.such", "Batch.Succeeded"} {
		_, err := ringback.ParseEventType(unknown)
		if !errors.Is(err, ringback.InvalidArgument) || !strings.Contains(err.Error(), "interaction.requires_action") {
			t.Errorf("%q: got %v", unknown, err)
		}
	}
}

func TestRoute(t *testing.T) {
	hook := func(s ringback.EndpointState, events ...ringback.EventType) *ringback.Endpoint {
		return &ringback.Endpoint{State: s, Events: events}
	}
	hit := hook(ringback.Enabled, ringback.BatchFailed, ringback.InteractionCompleted)
	off := hook(ringback.Disabled, ringback.InteractionCompleted)
	failing := hook(ringback.DisabledDueToFailedDeliveries, ringback.InteractionCompleted)
	all := []*ringback.Endpoint{hook(ringback.Enabled, ringback.BatchFailed), hit, off, failing}
	for i := range all {
		all[i].ID = ringback.ID(rune('a' + i))
	}
	got, skipped := ringback.Route(ringback.InteractionCompleted, all)
	if !slices.Equal(got, []*ringback.Endpoint{hit, off, failing}) {
		t.Errorf("got %v", got)
	}
	if len(skipped) != 1 || skipped[0].Reason != ringback.NotSubscribed || !slices.Equal(skipped[0].Endpoints, []ringback.ID{"a"}) || skipped[0].Count != 1 {
		t.Errorf("skipped %+v", skipped)
	}
	// Of a great number only the first few are named.
	many := slices.Repeat([]*ringback.Endpoint{all[0]}, 100)
	if s := ringback.SkipAll(ringback.Replaced, many); len(s) != 1 || s[0].Count != 100 || len(s[0].Endpoints) != 8 {
		t.Errorf("skipped %+v", s)
	}
}

func TestErrors(t *testing.T) {
	cause := errors.New("cause")
	err := error(&ringback.Error{Code: ringback.NotFound, Message: "no", Cause: cause})
	if !errors.Is(err, ringback.NotFound) || errors.Is(err, ringback.Stale) || !errors.Is(err, cause) || ringback.CodeOf(err) != ringback.NotFound {
		t.Errorf("unexpected chain of %v", err)
	}
	if ringback.CodeOf(cause) != "" || ringback.CodeOf(nil) != "" || ringback.CodeOf(ringback.Stale) != ringback.Stale {
		t.Error("CodeOf")
	}
}
