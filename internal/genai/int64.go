package genai

import (
	"bytes"
	"errors"
	"strconv"
)

// Int64 is a 64-bit integer of the classic surface: written as a string, read
// from a string or a number (proto-JSON).
type Int64 int64

// MarshalJSON implements json.Marshaler.
func (n Int64) MarshalJSON() ([]byte, error) {
	return append(strconv.AppendInt([]byte{'"'}, int64(n), 10), '"'), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *Int64) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(string(bytes.Trim(b, `"`)), 10, 64)
	if err != nil {
		return errors.New("a 64-bit integer, as a string or a number, was expected, got " + string(b))
	}
	*n = Int64(v)
	return nil
}
