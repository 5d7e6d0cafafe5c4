package work

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// inputLine is a line of a batch's input that is not blank.
type inputLine struct {
	// number counts all lines, from 1. offset and length are the line's place in
	// the input, its end included.
	number, offset, length int64
	// text has neither the line's end nor a byte-order mark. It is valid until the
	// next line is read.
	text []byte
	// tooLong: the line is longer than the limit; text is its beginning.
	tooLong bool
}

// lineReader reads JSON Lines (wire contract §4.9): lines end with LF or CRLF, the
// last one may lack its end, blank lines are passed over, and so is a byte-order
// mark at the beginning of the input.
type lineReader struct {
	from *bufio.Reader
	max  int
	at   int64 // Offset of the next line.
	seen int64 // Lines before it.
	long []byte
}

// newLineReader reads from r, which stands at offset and before which there were
// so many lines. Lines longer than limit bytes are not kept in memory.
func newLineReader(r io.Reader, offset, lines int64, limit int) *lineReader {
	return &lineReader{from: bufio.NewReaderSize(r, 256<<10), max: limit, at: offset, seen: lines}
}

// bom is U+FEFF in UTF-8.
var bom = []byte("\xef\xbb\xbf")

// next returns the next line that is not blank, io.EOF at the end.
func (l *lineReader) next() (inputLine, error) {
	for {
		line, err := l.line()
		if err != nil {
			return inputLine{}, err
		}
		if line.offset == 0 {
			line.text = bytes.TrimPrefix(line.text, bom)
		}
		if line.tooLong || len(bytes.TrimSpace(line.text)) > 0 {
			return line, nil
		}
	}
}

func (l *lineReader) line() (inputLine, error) {
	out := inputLine{number: l.seen + 1, offset: l.at}
	text, err := l.from.ReadSlice('\n')
	out.length = int64(len(text))
	if errors.Is(err, bufio.ErrBufferFull) {
		l.long = append(l.long[:0], text...)
		for errors.Is(err, bufio.ErrBufferFull) {
			text, err = l.from.ReadSlice('\n')
			out.length += int64(len(text))
			if room := l.max + 2 - len(l.long); room > 0 { // Its end may come on top.
				l.long = append(l.long, text[:min(room, len(text))]...)
			}
		}
		text = l.long
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return out, err
	}
	if out.length == 0 {
		return out, io.EOF
	}
	l.at += out.length
	l.seen++
	text = bytes.TrimSuffix(text, []byte("\n"))
	text = bytes.TrimSuffix(text, []byte("\r"))
	if len(text) > l.max {
		text, out.tooLong = text[:l.max], true
	}
	out.text = text
	return out, nil
}
