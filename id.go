package ringback

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"time"
)

// ID names a thing for ever. Ids that the server makes are time-ordered: those
// made later sort after those made earlier, to the millisecond.
type ID string

// crockford is Crockford's base32 in lower case: it sorts like the bytes that
// it encodes and leaves out letters that are easily misread.
var crockford = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID makes an id of the form prefix_suffix, where the suffix is 26
// characters of [0-9a-z] that encode 48 bits of Unix milliseconds and 80
// random bits (the layout of a ULID).
func NewID(prefix string, now time.Time) ID {
	return ID(prefix + "_" + ordered(now))
}

// NewInteractionID makes an id as the Interactions API shows it: "v1_" and
// characters of [A-Za-z0-9_-] (wire contract §5.5).
func NewInteractionID(now time.Time) ID { return NewID("v1", now) }

// NewEndpointID makes a webhook's id: 36 characters of [a-z0-9], no prefix
// (wire contract §1.1).
func NewEndpointID(now time.Time) ID {
	var extra [7]byte
	fill(extra[:])
	return ID(ordered(now) + crockford.EncodeToString(extra[:])[:10])
}

// NewOperationID makes a video's id: 36 characters of [a-z0-9] (wire contract §6.1).
func NewOperationID(now time.Time) ID { return NewEndpointID(now) }

func ordered(now time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	fill(b[6:])
	return crockford.EncodeToString(b[:])
}

// fill reads random bytes. crypto/rand.Read never returns an error; it ends the
// program if the operating system has no randomness to give.
func fill(b []byte) { _, _ = rand.Read(b) }
