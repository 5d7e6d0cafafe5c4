package api

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"ringback.dev"
)

// A foreground interaction that takes longer than AnswerWithin is answered with
// status requires_continuation and a token, with which newer SDKs ask again by
// themselves (wire contract §5.9). So a long answer comes through proxies that cut
// off long requests. The interaction itself runs on: it is the same one that is
// answered in the end.
const requiresContinuation = "requires_continuation"

// continuationToken names an interaction and how often it was waited for: an SDK
// takes the same token twice for a server that gets nowhere.
func continuationToken(id ringback.ID, turn int) string {
	return fmt.Sprintf("%s.%d", id, turn)
}

func parseContinuationToken(token string) (id ringback.ID, turn int, err error) {
	name, number, _ := strings.Cut(token, ".")
	turn, e := strconv.Atoi(number)
	if e != nil || turn < 1 {
		return "", 0, invalid("continuation_token: it is none of this server")
	}
	return ringback.ID(name), turn, nil
}

// continueInteraction answers a request with a continuation_token.
func (a *api) continueInteraction(c *call, token string) (any, error) {
	id, turn, err := parseContinuationToken(token)
	if err != nil {
		return nil, err
	}
	return a.await(c, id, turn+1)
}

// await answers a foreground interaction when it has ended, or says that it must
// be waited for again.
func (a *api) await(c *call, id ringback.ID, turn int) (any, error) {
	ended, err := a.untilEnded(c, id)
	if err != nil {
		return nil, err
	}
	j, spec, err := a.interactionWithSpec(c, id)
	if err != nil {
		return nil, err
	}
	r, err := a.renderInteraction(c, j, spec, false)
	if err == nil && !ended && !j.State.Final() {
		r.Status, r.ContinuationToken = requiresContinuation, continuationToken(id, turn)
	}
	return r, err
}

// untilEnded waits for the end of a job, for AnswerWithin at most.
func (a *api) untilEnded(c *call, id ringback.ID) (ended bool, err error) {
	parts, stop := a.Manage.Bus.ListenParts(id)
	defer stop()
	ctx, cancel := context.WithTimeout(c.Context(), a.AnswerWithin)
	defer cancel()
	poll := time.NewTicker(streamPoll)
	defer poll.Stop()
	for {
		_, state, err := a.Store.StreamAfter(c.Context(), c.project, id, math.MaxInt64, 1)
		if err != nil || state.Ended {
			return true, notFound(err, "interaction", id)
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-a.Manage.Closing:
			return false, nil
		case <-parts:
		case <-poll.C:
		}
	}
}
