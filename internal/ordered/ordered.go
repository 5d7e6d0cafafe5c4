// Package ordered reads and writes JSON whose objects keep the order of their
// members, which Go's maps lose. In a schema the order matters: models write the
// properties of an answer in it.
package ordered

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
)

// Object is a JSON object. A value is an Object, a []any of values, a string, a
// json.Number, a bool or nil.
type Object []Member

// Member is a name and its value.
type Member struct {
	Name  string
	Value any
}

// Parse reads one JSON value. Numbers keep their text.
func Parse(data []byte) (any, error) {
	if !json.Valid(data) { // It also bounds the nesting, and so recursion here.
		return nil, errors.New("it is not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return read(d)
}

func read(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		o := Object{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			value, err := read(d)
			if err != nil {
				return nil, err
			}
			o = append(o, Member{name.(string), value})
		}
		_, err := d.Token()
		return o, err
	case json.Delim('['):
		list := []any{}
		for d.More() {
			value, err := read(d)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		_, err := d.Token()
		return list, err
	}
	return token, nil
}

// Marshal writes a value.
func Marshal(value any) (json.RawMessage, error) {
	var b bytes.Buffer
	if err := write(&b, value); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func write(b *bytes.Buffer, value any) error {
	switch v := value.(type) {
	case Object:
		b.WriteByte('{')
		for i, m := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := write(b, m.Name); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := write(b, m.Value); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := write(b, item); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	default:
		scalar, err := json.Marshal(v)
		if err != nil {
			return err
		}
		b.Write(scalar)
	}
	return nil
}

// Get returns the value of a member, the last one if several have its name, as
// decoders have it; nil if there is none.
func (o Object) Get(name string) any {
	for _, m := range slices.Backward(o) {
		if m.Name == name {
			return m.Value
		}
	}
	return nil
}

// Has reports whether there is a member of that name.
func (o Object) Has(name string) bool {
	return slices.ContainsFunc(o, func(m Member) bool { return m.Name == name })
}
