package work

import (
	"encoding/binary"
	"errors"
	"io"
	"time"
)

// mp4Duration finds the duration of an MP4 of size bytes in its movie header
// (ISO/IEC 14496-12 §8.2.2), reading little else.
func mp4Duration(r io.ReaderAt, size int64) (time.Duration, error) {
	at, end, err := findBox(r, "moov", 0, size)
	if err != nil {
		return 0, err
	}
	if at, end, err = findBox(r, "mvhd", at, end); err != nil {
		return 0, err
	}
	var b [32]byte // Version and flags, two times, time scale, duration.
	n := 20
	if end-at >= int64(len(b)) {
		n = len(b)
	}
	if end-at < int64(n) {
		return 0, errNoMP4
	}
	if _, err := r.ReadAt(b[:n], at); err != nil {
		return 0, err
	}
	scale, units := binary.BigEndian.Uint32(b[12:]), uint64(binary.BigEndian.Uint32(b[16:]))
	if b[0] == 1 && n == len(b) { // 64-bit times.
		scale, units = binary.BigEndian.Uint32(b[20:]), binary.BigEndian.Uint64(b[24:])
	}
	seconds := float64(units) / float64(scale)
	if scale == 0 || seconds > 1e6 { // All ones mean that it is not known.
		return 0, errNoMP4
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond), nil
}

var errNoMP4 = errors.New("it is no MP4 with a duration")

// findBox finds the content of the first box of a type between two places.
func findBox(r io.ReaderAt, kind string, at, end int64) (from, to int64, err error) {
	for range 1000 {
		var head [16]byte
		if end-at < 8 {
			return 0, 0, errNoMP4
		}
		if _, err := r.ReadAt(head[:8], at); err != nil {
			return 0, 0, err
		}
		size, header := int64(binary.BigEndian.Uint32(head[:])), int64(8)
		switch size {
		case 0: // To the end.
			size = end - at
		case 1: // A 64-bit size follows.
			if end-at < 16 {
				return 0, 0, errNoMP4
			}
			if _, err := r.ReadAt(head[8:], at+8); err != nil {
				return 0, 0, err
			}
			size, header = int64(binary.BigEndian.Uint64(head[8:])), 16
		}
		if size < header || size > end-at {
			return 0, 0, errNoMP4
		}
		if string(head[4:8]) == kind {
			return at + header, at + size, nil
		}
		at += size
	}
	return 0, 0, errNoMP4
}
