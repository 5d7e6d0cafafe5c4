package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ringback.dev"
	"ringback.dev/internal/store"
)

// clock is the time that the server goes by: the machine's, and in development
// what it was set forward by. Retries, expiry and rotation follow it. What is
// compared with somebody else's clock does not: the dates of signatures, and the
// deadlines of connections.
type clock struct {
	ahead atomic.Int64 // A time.Duration; it never gets less.
	// file keeps ahead across restarts, so that what is stored does not come to lie
	// in the future. Empty if the clock can't be set.
	file string

	setting sync.Mutex // Held while it is set forward.
}

// clockFile is its name in the data folder.
const clockFile = "clock"

// openClock reads how far a development server's clock is ahead.
func openClock(dir string) (*clock, error) {
	c := &clock{file: filepath.Join(dir, clockFile)}
	text, err := os.ReadFile(c.file)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the clock: %w", err)
	}
	ahead, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil || ahead < 0 || ahead > maxAhead {
		return nil, fmt.Errorf("%s does not hold a duration such as 24h; remove it", c.file)
	}
	c.ahead.Store(int64(ahead))
	return c, nil
}

func (c *clock) now() time.Time { return time.Now().Add(c.offset()) }

func (c *clock) offset() time.Duration { return time.Duration(c.ahead.Load()) }

// keep writes down how far the clock is ahead.
func (c *clock) keep(ahead time.Duration) error {
	if err := os.WriteFile(c.file+".new", []byte(ahead.String()+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the clock: %w", err)
	}
	if err := os.Rename(c.file+".new", c.file); err != nil {
		return fmt.Errorf("keep the clock: %w", err)
	}
	return nil
}

// maxAhead bounds how far a clock can be ahead: times must stay such that every
// part of the server can print and read them.
const maxAhead = 20 * 365 * 24 * time.Hour

// Ahead is how far the clock is ahead of the machine's.
func (a *App) Ahead() time.Duration { return a.clock.offset() }

// Advance sets the clock of a development server forward, and has everything look
// at it anew that waits for a time. It returns how far the clock is ahead then.
func (a *App) Advance(ctx context.Context, d time.Duration) (time.Duration, error) {
	a.clock.setting.Lock()
	defer a.clock.setting.Unlock()
	ahead := a.clock.offset() + d
	if d < 0 || ahead > maxAhead {
		return 0, &ringback.Error{Code: ringback.InvalidArgument, Message: fmt.Sprintf("seconds: the clock can be set forward only, and be ahead by 20 years at most; it is ahead by %s", a.clock.offset())}
	}
	// First of all, or what is under way would seem abandoned and be done twice.
	if s, ok := a.store.(store.LeaseShifter); ok {
		if err := s.ShiftLeases(ctx, node, a.clock.now(), d); err != nil {
			return 0, err
		}
	}
	if err := a.clock.keep(ahead); err != nil {
		return 0, err
	}
	a.clock.ahead.Store(int64(ahead))
	a.log.Info("the clock was set forward", "by", d, "ahead", ahead)
	a.runner.Jump()
	a.dispatcher.Wake()
	select {
	case a.jump <- struct{}{}:
	default:
	}
	return ahead, nil
}
