package emulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// sample makes a small JSON value that satisfies a JSON schema, as far as the
// keywords that tool and answer schemas use go: type, enum, const, properties,
// required, items, minItems, anyOf, minimum. Where a string is free it says
// where it comes from. Without a schema it makes an object, or, if kind is
// "object", an empty one.
func sample(schema json.RawMessage, kind string) (json.RawMessage, error) {
	if schema == nil {
		if kind == "object" {
			return json.RawMessage("{}"), nil
		}
		return json.RawMessage(`{"note":"ringback emulator: no model ran"}`), nil
	}
	var s map[string]any
	if err := json.Unmarshal(schema, &s); err != nil {
		return nil, errors.New("a schema must be an object")
	}
	budget := maxValues
	v := sampleValue(s, 0, &budget)
	if budget < 0 {
		return nil, fmt.Errorf("it asks for more than %d values", maxValues)
	}
	if _, ok := v.(map[string]any); kind == "object" && !ok {
		return json.RawMessage("{}"), nil
	}
	return json.Marshal(v)
}

// maxValues bounds a sample. Nested lists multiply: seven levels of minItems 16
// would fill the memory from a schema of 300 bytes.
const maxValues = 10_000

// sampleValue takes each value that it makes from the budget; below zero the
// sample is not whole.
func sampleValue(s map[string]any, depth int, budget *int) any {
	if *budget--; depth > 32 || *budget < 0 {
		return nil
	}
	if c, ok := s["const"]; ok {
		return c
	}
	if e, ok := s["enum"].([]any); ok && len(e) > 0 {
		return e[0]
	}
	for _, of := range []string{"anyOf", "oneOf", "allOf"} {
		if list, ok := s[of].([]any); ok && len(list) > 0 {
			if first, ok := list[0].(map[string]any); ok {
				return sampleValue(first, depth+1, budget)
			}
		}
	}
	kind, _ := s["type"].(string)
	if kinds, ok := s["type"].([]any); ok && len(kinds) > 0 {
		kind, _ = kinds[0].(string)
	}
	if kind == "" && s["properties"] != nil {
		kind = "object"
	}
	switch kind {
	case "object":
		out := make(map[string]any)
		properties, _ := s["properties"].(map[string]any)
		required, _ := s["required"].([]any)
		for name, p := range properties {
			if p, ok := p.(map[string]any); ok && (len(required) == 0 || slices.Contains(required, any(name))) {
				out[name] = sampleValue(p, depth+1, budget)
			}
		}
		return out
	case "array":
		items, _ := s["items"].(map[string]any)
		n, _ := s["minItems"].(float64)
		out := []any{}
		for range min(max(int(n), 1), 16) {
			out = append(out, sampleValue(items, depth+1, budget))
		}
		return out
	case "integer", "number":
		if m, ok := s["minimum"].(float64); ok {
			return m
		}
		return 1
	case "boolean":
		return true
	case "null":
		return nil
	default:
		return "emulated"
	}
}
