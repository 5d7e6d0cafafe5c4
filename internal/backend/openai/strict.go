package openai

import (
	"encoding/json"
	"slices"

	"ringback.dev/internal/ordered"
)

// OpenAI holds an answer to a schema for sure only if it is asked to be strict, and
// then takes a part of JSON schema: every object must be closed and need all its
// properties, and the root must be an object
// (platform.openai.com/docs/guides/structured-outputs, "Supported schemas").

// strictKeywords are those that may be in it.
var strictKeywords = []string{"type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs",
	"title", "description", "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"}

var strictFormats = []any{"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}

const (
	strictDepth      = 10
	strictProperties = 5000
	strictEnum       = 1000
)

// strictSchema closes the objects of a schema that say nothing of further
// properties: what fits the closed schema fits the open one. It reports whether the
// result can be asked for strictly; if not, the schema stays as it was.
func strictSchema(schema json.RawMessage) (json.RawMessage, bool) {
	v, err := ordered.Parse(schema)
	root, ok := v.(ordered.Object)
	if err != nil || !ok || root.Get("type") != "object" || root.Has("anyOf") {
		return schema, false
	}
	properties := strictProperties
	closed, ok := strictNode(root, 0, &properties)
	if !ok {
		return schema, false
	}
	out, err := ordered.Marshal(closed)
	if err != nil {
		return schema, false
	}
	return out, true
}

// strictNode returns the closed schema, or false if it can't be strict. It takes
// the properties from the budget.
func strictNode(v any, depth int, properties *int) (ordered.Object, bool) {
	in, ok := v.(ordered.Object)
	if !ok || depth > strictDepth {
		return nil, false
	}
	out := slices.Clone(in)
	said := false // Of what kind it is.
	for i, m := range in {
		if !slices.Contains(strictKeywords, m.Name) {
			return nil, false
		}
		switch m.Name {
		case "type", "$ref", "const":
			said = true
		case "format":
			ok = slices.Contains(strictFormats, m.Value)
		case "enum":
			list, is := m.Value.([]any)
			said, ok = true, is && len(list) <= strictEnum
		case "items":
			out[i].Value, ok = strictNode(m.Value, depth+1, properties)
		case "anyOf":
			said = true
			out[i].Value, ok = strictList(m.Value, depth, properties)
		case "properties", "$defs":
			out[i].Value, ok = strictMembers(m.Value, depth, properties)
		case "additionalProperties":
			ok = m.Value == false
		}
		if !ok {
			return nil, false
		}
	}
	if !isObject(in) {
		return out, said
	}
	all, ok := in.Get("properties").(ordered.Object)
	if !ok {
		return nil, false // Any object at all is wanted, which closed would be the empty one.
	}
	required, _ := in.Get("required").([]any)
	for _, p := range all {
		if !slices.Contains(required, any(p.Name)) {
			return nil, false
		}
	}
	if !in.Has("additionalProperties") {
		out = append(out, ordered.Member{Name: "additionalProperties", Value: false})
	}
	return out, said
}

// isObject reports whether a schema's type is an object, or one of several.
func isObject(schema ordered.Object) bool {
	kind := schema.Get("type")
	kinds, _ := kind.([]any)
	return kind == "object" || slices.Contains(kinds, "object") || schema.Has("properties")
}

func strictList(v any, depth int, properties *int) (any, bool) {
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	out := make([]any, len(list))
	for i, s := range list {
		if out[i], ok = strictNode(s, depth, properties); !ok {
			return nil, false
		}
	}
	return out, true
}

func strictMembers(v any, depth int, properties *int) (any, bool) {
	in, ok := v.(ordered.Object)
	if *properties -= len(in); !ok || *properties < 0 {
		return nil, false
	}
	out := slices.Clone(in)
	for i, m := range in {
		if out[i].Value, ok = strictNode(m.Value, depth+1, properties); !ok {
			return nil, false
		}
	}
	return out, true
}
