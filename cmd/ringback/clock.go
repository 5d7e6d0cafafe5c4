package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

type devClock struct {
	By     string `arg:"" optional:"" help:"How much time is to pass: +24h, +90m, +7d. Without it the clock is shown."`
	Server string `default:"http://127.0.0.1:8080" env:"RINGBACK_SERVER,GOOGLE_GEMINI_BASE_URL" placeholder:"URL" help:"Base address of the server."`
	APIKey string `name:"api-key" default:"any" env:"RINGBACK_API_KEY,GEMINI_API_KEY" placeholder:"KEY" help:"API key; a development server takes any."`
	JSON   bool   `name:"json" help:"Print the server's JSON."`
}

// Help shows more than the flags.
func (devClock) Help() string {
	return `What would come in hours comes at once: the next attempt of a callback that failed, the end of a secret that was replaced, the expiry of files and
batches, job.stalled. Signatures keep the real time, since receivers compare it with theirs. The clock is never set back; it stays ahead when the server
is started again, until its data folder is removed.

  ringback dev clock +3h      the next retry
  ringback dev clock +25h     the end of the retry window, of a rotation
  ringback dev clock +49h     files and batches expire
  ringback dev clock          what time it is there`
}

func (c *devClock) Run(ctx context.Context, s *streams) error {
	server := client{Server: c.Server, APIKey: c.APIKey, JSON: c.JSON}
	method, path, body := http.MethodGet, "clock", any(nil)
	if c.By != "" {
		d, err := span(c.By)
		if err != nil {
			return err
		}
		method, path, body = http.MethodPost, "clock:advance", map[string]int64{"seconds": int64(d / time.Second)}
	}
	if c.JSON {
		return server.raw(ctx, s, method, path, body)
	}
	var clock struct {
		Now   string `json:"now"`
		Ahead int64  `json:"ahead_seconds"`
	}
	if err := server.manage(ctx, method, path, body, &clock); err != nil {
		return err
	}
	ahead := "not set forward"
	if clock.Ahead > 0 {
		ahead = "ahead by " + brief(time.Duration(clock.Ahead)*time.Second)
	}
	fmt.Fprintf(s.out, "%s, %s\n", local(clock.Now), ahead)
	return nil
}

// brief prints a duration without the minutes and seconds that are zero.
func brief(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// span reads how much time is to pass, in whole seconds.
func span(text string) (time.Duration, error) {
	d, err := duration(strings.TrimPrefix(text, "+"))
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("%q is not a time to pass, such as +24h, +90m or +7d, of a second at least", text)
	}
	return d, nil
}
