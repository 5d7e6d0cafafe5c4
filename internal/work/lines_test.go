package work

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"ringback.dev"
	"ringback.dev/internal/genai"
)

// readLines reads all lines that are not blank, from the beginning of data.
func readLines(t *testing.T, data []byte, limit int) (lines []inputLine) {
	t.Helper()
	r := newLineReader(bytes.NewReader(data), 0, 0, limit)
	for {
		line, err := r.next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		line.text = bytes.Clone(line.text)
		lines = append(lines, line)
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", 600<<10) // More than the reader's buffer.
	input := "\xef\xbb\xbfone\r\n\n  \t\r\ntwo\n" + long + "\nlast"
	got := readLines(t, []byte(input), 700<<10)
	want := []inputLine{
		{number: 1, offset: 0, length: 8, text: []byte("one")},
		{number: 4, offset: 14, length: 4, text: []byte("two")},
		{number: 5, offset: 18, length: 600<<10 + 1, text: []byte(long)},
		{number: 6, offset: 19 + 600<<10, length: 4, text: []byte("last")},
	}
	same := func(a, b inputLine) bool {
		return a.number == b.number && a.offset == b.offset && a.length == b.length && a.tooLong == b.tooLong && bytes.Equal(a.text, b.text)
	}
	if !slices.EqualFunc(got, want, same) {
		t.Errorf("got %d lines", len(got))
	}
	cut := readLines(t, []byte(long+"\r\nnext\n"), 1000)
	if len(cut) != 2 || !cut[0].tooLong || len(cut[0].text) != 1000 || string(cut[1].text) != "next" || cut[1].number != 2 {
		t.Errorf("a line that is too long gave %d lines", len(cut))
	}
}

// FuzzLines: the reader and the simplest way to do the same agree, wherever a
// reading begins.
func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n\n{\"b\":2}\r\n"), 10)
	f.Add([]byte("\xef\xbb\xbf\n\xff\xfe\nxxxxxxxxxxxxxxxxx"), 5)
	f.Add([]byte("\r\n\r\n\r"), 0)
	f.Fuzz(func(t *testing.T, data []byte, limit int) {
		if limit < 0 || limit > 1<<20 {
			return
		}
		got := readLines(t, data, limit)
		i, at := 0, int64(0)
		for n, text := range bytes.SplitAfter(data, []byte("\n")) {
			length := int64(len(text))
			text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
			tooLong := len(text) > limit
			if at == 0 && !tooLong {
				text = bytes.TrimPrefix(text, bom)
			}
			if tooLong || len(bytes.TrimSpace(text)) > 0 {
				if i == len(got) {
					t.Fatalf("line %d is missing", n+1)
				}
				g := got[i]
				if g.number != int64(n+1) || g.offset != at || g.length != length || g.tooLong != tooLong || !tooLong && !bytes.Equal(g.text, text) {
					t.Fatalf("line %d: got %+v %q, want %q at %d", n+1, g, g.text, text, at)
				}
				section := newLineReader(bytes.NewReader(data[at:]), at, int64(n), limit)
				if again, err := section.next(); err != nil || again.number != g.number || !bytes.Equal(again.text, g.text) {
					t.Fatalf("read from %d: %+v, %v", at, again, err)
				}
				i++
			}
			at += length
		}
		if i != len(got) {
			t.Fatalf("%d lines too many", len(got)-i)
		}
	})
}

// FuzzRow: any line gives a result that is one line of JSON, valid UTF-8, and
// echoes the key.
func FuzzRow(f *testing.F) {
	for _, line := range []string{
		`{"key":"a","request":{"contents":[{"parts":[{"text":"x"}]}]}}`,
		`{"key":{"b":[1,2]},"metadata":{"c":"d"},"request":{"contents":[{"parts":[{"text":"x_y"}]}],"generation_config":{"top_p":1}}}`,
		`{"key":1,"request":null}`, `{"key":"` + "\xff" + `"}`, `{"request":{"content":{"parts":[{"text":"e"}]}}}`, `[]`, `nonsense`,
	} {
		f.Add([]byte(line), false)
		f.Add([]byte(line), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, embed bool) {
		if bytes.ContainsAny(text, "\n") {
			return
		}
		r, bad := parseRow(&inputLine{number: 7, text: text}, "m", &ringback.Batch{Embed: embed, InputFile: "files/x"})
		if bad == nil && r.generate == nil && r.embed == nil {
			t.Fatal("neither a request nor an error")
		}
		failed := &genai.RowError{Code: 3, Message: "none"}
		if bad != nil {
			failed.Message = bad.Error()
			if !strings.HasPrefix(failed.Message, "line 7: ") {
				t.Errorf("the error does not name the line: %s", failed.Message)
			}
		}
		line, err := r.result(nil, failed)
		if err != nil || bytes.ContainsAny(line, "\n") || !utf8.Valid(line) {
			t.Fatalf("%v: %q", err, line)
		}
		var out struct {
			Error genai.RowError
			Key   any
		}
		if err := genai.Decode(line, &out); err != nil || out.Error.Code != 3 {
			t.Fatalf("%v: %s", err, line)
		}
	})
}

// FuzzGroups: damaged groups are told of, and whole ones are read as written.
func FuzzGroups(f *testing.F) {
	f.Add(appendResult(appendResult(nil, 3, false, []byte("{}")), 499, true, nil), []byte("x"))
	f.Fuzz(func(t *testing.T, data, line []byte) {
		_, _ = readGroups([][]byte{data}) // It must not panic.
		group := appendResult(appendResult(nil, 1, true, line), 2, false, data)
		rows, err := readGroups([][]byte{group, appendResult(nil, 1, false, []byte("later"))})
		if err != nil || len(rows) != 2 || !rows[1].failed || !bytes.Equal(rows[1].line, line) || !bytes.Equal(rows[2].line, data) {
			t.Errorf("%v: %v", err, rows)
		}
	})
}
