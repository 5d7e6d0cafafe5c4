// Package jsjson prints JSON exactly as JavaScript's JSON.stringify would, so
// that a body survives JSON.stringify(JSON.parse(body)) unchanged. Receivers are
// known to verify signatures over such a body (wire contract §2.2).
package jsjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds nesting, and so recursion.
const maxDepth = 200

// Marshal encodes v as encoding/json does and normalises the result. Keys of
// structs keep the order of their fields.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return Normalize(b.Bytes())
}

// Normalize rewrites one JSON value: no white space, keys in the order in which
// JavaScript lists them (array indices ascending, then the others as they come,
// the last of several equal keys winning), numbers in their shortest form as
// 64-bit floats, strings escaped only where they must be. Unpaired surrogates
// become U+FFFD.
func Normalize(raw []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	out, err := value(make([]byte, 0, len(raw)), d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("data after the JSON value")
	}
	return out, nil
}

func value(out []byte, d *json.Decoder, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			return array(out, d, depth)
		}
		return object(out, d, depth)
	case string:
		return AppendString(out, t), nil
	case json.Number:
		return appendNumber(out, t)
	case bool:
		return strconv.AppendBool(out, t), nil
	default:
		return append(out, "null"...), nil
	}
}

func array(out []byte, d *json.Decoder, depth int) ([]byte, error) {
	out = append(out, '[')
	for first := true; d.More(); first = false {
		if !first {
			out = append(out, ',')
		}
		var err error
		if out, err = value(out, d, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	return append(out, ']'), nil
}

func object(out []byte, d *json.Decoder, depth int) ([]byte, error) {
	type member struct {
		key   string
		value []byte
	}
	var members []member
	at := make(map[string]int)
	indices := false
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok {
			return nil, errors.New("a key is not a string")
		}
		v, err := value(nil, d, depth+1)
		if err != nil {
			return nil, err
		}
		if i, seen := at[key]; seen {
			members[i].value = v
			continue
		}
		at[key] = len(members)
		members = append(members, member{key, v})
		if _, ok := arrayIndex(key); ok {
			indices = true
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if indices {
		slices.SortStableFunc(members, func(a, b member) int {
			x, xi := arrayIndex(a.key)
			y, yi := arrayIndex(b.key)
			switch {
			case xi && yi:
				return int(int64(x) - int64(y))
			case xi:
				return -1
			case yi:
				return 1
			}
			return 0
		})
	}
	out = append(out, '{')
	for i, m := range members {
		if i > 0 {
			out = append(out, ',')
		}
		out = AppendString(out, m.key)
		out = append(out, ':')
		out = append(out, m.value...)
	}
	return append(out, '}'), nil
}

// arrayIndex reports whether JavaScript takes a key for an array index
// (ECMA-262 §6.1.7): a canonical number below 2^32-1.
func arrayIndex(key string) (uint32, bool) {
	if key == "" || len(key) > 10 || (len(key) > 1 && key[0] == '0') {
		return 0, false
	}
	n, err := strconv.ParseUint(key, 10, 32)
	return uint32(n), err == nil && n < math.MaxUint32 && key[0] != '+'
}

// appendNumber prints a number as Number.prototype.toString does (ECMA-262
// §6.1.6.1.20). What overflows a float64 becomes null there.
func appendNumber(out []byte, n json.Number) ([]byte, error) {
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return nil, err
	}
	if math.IsInf(f, 0) {
		return append(out, "null"...), nil
	}
	if f == 0 {
		return append(out, '0'), nil
	}
	if a := math.Abs(f); a >= 1e-6 && a < 1e21 {
		return strconv.AppendFloat(out, f, 'f', -1, 64), nil
	}
	// Go writes at least two digits of exponent, JavaScript no leading zero.
	s := strconv.FormatFloat(f, 'e', -1, 64)
	mantissa, exponent, _ := strings.Cut(s, "e")
	sign := exponent[0]
	return append(out, mantissa+"e"+string(sign)+strings.TrimLeft(exponent[1:], "0")...), nil
}

// AppendString quotes a string as JSON.stringify does (ECMA-262 §25.5.2.3) and
// appends it.
func AppendString(out []byte, s string) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			out = utf8.AppendRune(out, r)
			i += size
			continue
		}
		i++
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, '\\', 'b')
		case '\f':
			out = append(out, '\\', 'f')
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			if c < 0x20 {
				out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			} else {
				out = append(out, c)
			}
		}
	}
	return append(out, '"')
}
