// Package schema checks JSON against JSON Schema (json-schema.org, 2020-12 unless
// a schema says otherwise). Schemas come from clients: nothing they refer to is
// loaded.
package schema

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// Valid reports what is wrong with a schema itself.
func Valid(schema []byte) error {
	_, err := compile(schema)
	return err
}

// Check reports why data is not JSON, or does not satisfy a schema if that is not
// nil. Errors name the place as a JSON pointer (RFC 6901).
func Check(schema, data []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return errors.New("it is not JSON")
	}
	if schema == nil {
		return nil
	}
	s, err := compile(schema)
	if err != nil {
		return err
	}
	var invalid *jsonschema.ValidationError
	if err := s.Validate(value); errors.As(err, &invalid) {
		return explain(invalid)
	} else if err != nil {
		return err
	}
	return nil
}

// nothing loads no schema.
type nothing struct{}

func (nothing) Load(url string) (any, error) {
	return nil, fmt.Errorf("it refers to %s; only what is within the schema can be referred to", url)
}

const name = "schema:response_format"

func compile(schema []byte) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, errors.New("the schema is not JSON")
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(nothing{})
	if err := c.AddResource(name, doc); err != nil {
		return nil, fmt.Errorf("the schema can't be used: %w", err)
	}
	s, err := c.Compile(name)
	var invalid *jsonschema.SchemaValidationError
	if errors.As(err, &invalid) {
		var cause *jsonschema.ValidationError
		if errors.As(invalid.Err, &cause) {
			return nil, fmt.Errorf("the schema is none: %w", explain(cause))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the schema can't be used: %s", strings.ReplaceAll(err.Error(), name, ""))
	}
	return s, nil
}

var printer = message.NewPrinter(language.English)

// explain tells the first thing that is wrong, in a line.
func explain(e *jsonschema.ValidationError) error {
	for len(e.Causes) > 0 {
		e = e.Causes[0]
	}
	if _, ok := e.ErrorKind.(*kind.FalseSchema); ok && len(e.InstanceLocation) > 0 {
		return fmt.Errorf("at /%s: it must not be there", strings.Join(e.InstanceLocation, "/"))
	}
	return fmt.Errorf("at /%s: %s", strings.Join(e.InstanceLocation, "/"), e.ErrorKind.LocalizedString(printer))
}
