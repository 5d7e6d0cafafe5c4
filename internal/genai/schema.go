package genai

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"ringback.dev/internal/ordered"
)

// ToJSONSchema converts the OpenAPI-like Schema, whose types are in capitals, to
// ordinary JSON schema. Properties stay in the order in which they are written, or
// come in that of propertyOrdering, which JSON schema has no word for: models write
// them in it. Nil stays nil.
func ToJSONSchema(schema json.RawMessage) (json.RawMessage, error) {
	if schema == nil {
		return nil, nil
	}
	v, err := ordered.Parse(schema)
	if err != nil {
		return nil, err
	}
	o, ok := v.(ordered.Object)
	if !ok {
		return nil, errors.New("a schema must be an object")
	}
	return ordered.Marshal(jsonSchema(o))
}

func jsonSchema(in ordered.Object) ordered.Object {
	out := make(ordered.Object, 0, len(in))
	nullable := in.Get("nullable") == true
	for _, m := range in {
		key, value := m.Name, m.Value
		switch key {
		case "nullable", "propertyOrdering", "property_ordering":
			continue
		case "type":
			if s, ok := value.(string); ok {
				value = strings.ToLower(s)
				if nullable {
					value = []any{value, "null"}
				}
			}
		case "enum":
			if list, ok := value.([]any); ok && nullable && !slices.Contains(list, nil) {
				value = append(slices.Clone(list), nil)
			}
		case "properties", "$defs":
			if properties, ok := value.(ordered.Object); ok {
				converted := make(ordered.Object, len(properties))
				for i, p := range properties {
					converted[i] = ordered.Member{Name: p.Name, Value: subSchema(p.Value)}
				}
				if key == "properties" {
					arrange(converted, in)
				}
				value = converted
			}
		case "items", "additionalProperties":
			value = subSchema(value)
		case "minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties",
			"min_items", "max_items", "min_length", "max_length", "min_properties", "max_properties":
			// The dialect's limits are int64, which proto-JSON writes as strings (wire
			// contract §0.3).
			if bound, limit, ok := strings.Cut(key, "_"); ok {
				key = bound + strings.ToUpper(limit[:1]) + limit[1:]
			}
			if s, ok := value.(string); ok {
				if n, err := strconv.ParseInt(s, 10, 64); err == nil {
					value = json.Number(strconv.FormatInt(n, 10))
				}
			}
		case "anyOf", "any_of":
			if list, ok := value.([]any); ok {
				converted := make([]any, len(list))
				for i, s := range list {
					converted[i] = subSchema(s)
				}
				if nullable {
					converted = append(converted, ordered.Object{{Name: "type", Value: "null"}})
				}
				key, value = "anyOf", converted
			}
		}
		out = append(out, ordered.Member{Name: key, Value: value})
	}
	return out
}

// subSchema converts a schema within another; what is none stays as it is.
func subSchema(v any) any {
	if o, ok := v.(ordered.Object); ok {
		return jsonSchema(o)
	}
	return v
}

// arrange puts the properties first that a schema's propertyOrdering names, in its
// order.
func arrange(properties, schema ordered.Object) {
	order, ok := schema.Get("propertyOrdering").([]any)
	if !ok {
		order, _ = schema.Get("property_ordering").([]any)
	}
	if len(order) == 0 {
		return
	}
	place := make(map[string]int, len(order))
	for i, name := range order {
		if s, ok := name.(string); ok {
			place[s] = i
		}
	}
	at := func(m ordered.Member) int {
		if i, ok := place[m.Name]; ok {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(properties, func(a, b ordered.Member) int { return at(a) - at(b) })
}
