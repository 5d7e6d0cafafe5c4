package jsjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxElements bounds the lists that Set makes longer.
const maxElements = 10_000

// Set changes one value of a JSON object and prints the whole as Normalize does.
// The path names members and, by number, elements of arrays, with full stops
// between: "data.items.0.name". Members that are missing are made, and an array
// gets one more element if the number is its length. Errors name the path.
func Set(object []byte, path string, value []byte) ([]byte, error) {
	value, err := Normalize(value)
	if err != nil {
		return nil, fmt.Errorf("%s: the value is not JSON: %w", path, err)
	}
	object, err = Normalize(object)
	if err != nil {
		return nil, err
	}
	names := strings.Split(path, ".")
	if len(names) > maxDepth/2 {
		return nil, fmt.Errorf("%s…: it has more than %d parts", path[:40], maxDepth/2)
	}
	for _, name := range names {
		if name == "" {
			return nil, fmt.Errorf("%q is not a path such as data.id", path)
		}
	}
	out, err := set(object, names, 0, value)
	if err != nil {
		return nil, err
	}
	return Normalize(out)
}

// set changes what lies under names[at:] in a value that is normalised.
func set(in []byte, names []string, at int, value []byte) ([]byte, error) {
	if at == len(names) {
		return value, nil
	}
	name := names[at]
	switch in[0] {
	case '{':
		return setMember(in, names, at, value)
	case '[':
		var elements []json.RawMessage
		if err := json.Unmarshal(in, &elements); err != nil {
			return nil, err
		}
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || i > len(elements) || i >= maxElements {
			return nil, fmt.Errorf("%s: the list has %d elements; %q is not the number of one, nor of the next", strings.Join(names[:at], "."), len(elements), name)
		}
		if i == len(elements) {
			elements = append(elements, json.RawMessage("{}"))
		}
		if elements[i], err = set(elements[i], names, at+1, value); err != nil {
			return nil, err
		}
		parts := make([][]byte, len(elements))
		for i := range elements {
			parts[i] = elements[i]
		}
		return append(append([]byte{'['}, bytes.Join(parts, []byte{','})...), ']'), nil
	}
	if at == 0 {
		return nil, errors.New("it is not a JSON object")
	}
	return nil, fmt.Errorf("%s is %s, which has no member %q", strings.Join(names[:at], "."), in, name)
}

func setMember(in []byte, names []string, at int, value []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(in))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	out := []byte{'{'}
	add := func(key string, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(AppendString(out, key), ':'), value...)
	}
	found := false
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok {
			return nil, errors.New("a key is not a string")
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		if key == names[at] {
			found = true
			if v, err = set(v, names, at+1, value); err != nil {
				return nil, err
			}
		}
		add(key, v)
	}
	if !found {
		v, err := set([]byte("{}"), names, at+1, value)
		if err != nil {
			return nil, err
		}
		add(names[at], v)
	}
	return append(out, '}'), nil
}
