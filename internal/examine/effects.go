package examine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"
)

const (
	// maxCount bounds the text of a count, countWithin how long it may take.
	maxCount    = 64 << 20
	countWithin = 10 * time.Second
)

// EffectsAt counts effects by asking an address.
func EffectsAt(url string) func(context.Context) (int64, error) {
	client := &http.Client{Timeout: countWithin}
	return func(ctx context.Context) (int64, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, fmt.Errorf("%q is not an address", url)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxCount))
		if err != nil {
			return 0, err
		}
		if resp.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("it answered %s", resp.Status)
		}
		return ParseCount(text)
	}
}

// EffectsBy counts effects by running a shell command.
func EffectsBy(command string) func(context.Context) (int64, error) {
	return func(ctx context.Context) (int64, error) {
		ctx, cancel := context.WithTimeout(ctx, countWithin)
		defer cancel()
		c := exec.CommandContext(ctx, "sh", "-c", command)
		c.Stderr = os.Stderr
		text, err := c.Output()
		if err != nil {
			return 0, fmt.Errorf("the command: %w", err)
		}
		return ParseCount(text)
	}
}

// ParseCount reads a number of effects: a number; a JSON array, which counts by
// its elements; a JSON object, by its member count; any other text, such as a
// log, by its lines that are not empty.
func ParseCount(text []byte) (int64, error) {
	text = bytes.TrimSpace(text)
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return n, nil
	}
	if len(text) > 0 && text[0] == '[' {
		var all []json.RawMessage
		if json.Unmarshal(text, &all) == nil {
			return int64(len(all)), nil
		}
	}
	if len(text) > 0 && text[0] == '{' && json.Valid(text) {
		var object struct{ Count *json.Number }
		if json.Unmarshal(text, &object) == nil && object.Count != nil {
			n, err := object.Count.Int64()
			if err != nil {
				return 0, errors.New("count: it is not a whole number")
			}
			return n, nil
		}
		if bytes.ContainsAny(text, "\n") {
			return 0, errors.New("the object has no number count")
		}
	}
	var n int64
	for line := range bytes.Lines(text) {
		if len(bytes.TrimSpace(line)) > 0 {
			n++
		}
	}
	return n, nil
}
