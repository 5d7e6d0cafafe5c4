package reconcile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
)

// Ledger is a file of what was collected: a job's name at the beginning of each
// line, then whatever its writer likes. Lines that begin with # are remarks. Any
// program may append to it. The nil Ledger is empty.
type Ledger struct {
	path string

	mu    sync.Mutex
	names map[string]bool
}

// OpenLedger reads a ledger; one that does not exist is empty.
func OpenLedger(path string) (*Ledger, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	names, err := parseLedger(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Ledger{path: path, names: names}, nil
}

func parseLedger(text []byte) (map[string]bool, error) {
	names := make(map[string]bool)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		names[bare(fields[0])] = true
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("a line is too long to be one of a ledger: %w", err)
	}
	return names, nil
}

// bare takes a batch's name with or without its collection.
func bare(name string) string { return strings.TrimPrefix(name, "batches/") }

// Has reports whether a job was collected.
func (l *Ledger) Has(name string) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.names[bare(name)]
}

// Add notes that a job was collected. On return the line is on the disk.
func (l *Ledger) Add(name, remark string) error {
	if name == "" || strings.ContainsAny(name+remark, "\r\n") || len(strings.Fields(name)) != 1 {
		return fmt.Errorf("%q can't stand in a ledger", name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	line := name + " " + remark + "\n"
	// Somebody may have left the last line without its end.
	if end, err := f.Seek(0, 2); err == nil && end > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, end-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	_, err = f.WriteString(line)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		l.names[bare(name)] = true
	}
	return err
}
