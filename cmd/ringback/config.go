package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"ringback.dev/internal/app"
)

// settings are the flags of every command that runs a server.
type settings struct {
	app.Config
	ConfigFile kong.ConfigFlag `name:"config" placeholder:"FILE" help:"YAML file with any of these settings, and with back-ends and models."`
}

// complete adds what only the file and the environment hold.
func (s *settings) complete() error {
	s.MasterKey = os.Getenv("RINGBACK_MASTER_KEY")
	s.NextMasterKey = os.Getenv("RINGBACK_MASTER_KEY_NEXT")
	s.OperatorKey = os.Getenv("RINGBACK_OPERATOR_KEY")
	if s.ConfigFile == "" {
		return nil
	}
	data, err := os.ReadFile(kong.ExpandPath(string(s.ConfigFile)))
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	file, err := parseFile(data)
	if err != nil {
		return err
	}
	s.Backends, s.Models = file.Backends, file.Models
	return nil
}

// parseFile reads a configuration file. Unknown keys are errors that name the line.
func parseFile(data []byte) (*app.Config, error) {
	var c app.Config
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		text := strings.TrimPrefix(err.Error(), "yaml: unmarshal errors:\n")
		text = strings.NewReplacer(" not found in type app.Config", " is not a setting", " not found in type app.", " is not a key of ").Replace(text)
		return nil, fmt.Errorf("configuration: %s", strings.TrimSpace(text))
	}
	return &c, nil
}

// loadFile lets kong take the flags that were not given from the file.
func loadFile(r io.Reader) (kong.Resolver, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if _, err := parseFile(data); err != nil {
		return nil, err
	}
	// The text as it stands in the file: read as any, 0123, 1e3 and 2026-01-01
	// would become other values.
	values := make(map[string]yaml.Node)
	if err := yaml.Unmarshal(data, &values); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		for _, name := range flag.Envs {
			if _, set := os.LookupEnv(name); set {
				return nil, nil // The environment wins over the file.
			}
		}
		v, ok := values[strings.ReplaceAll(flag.Name, "-", "_")]
		if v.Kind == yaml.AliasNode {
			v = *v.Alias
		}
		if v.Kind == yaml.SequenceNode {
			items := make([]string, len(v.Content))
			for i, item := range v.Content {
				items[i] = item.Value
			}
			return strings.Join(items, ","), nil
		}
		if !ok || v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
			return nil, nil
		}
		return v.Value, nil
	}), nil
}

type configCommand struct {
	Check configCheck `cmd:"" help:"Say whether the configuration is good. Exit code 1 if not."`
	Print configPrint `cmd:"" help:"Print the settings that would be used, as YAML. Secrets are left out."`
}

type configCheck struct{ settings }

func (c *configCheck) Run(s *streams) error {
	if err := c.complete(); err != nil {
		return err
	}
	c.Dev = c.Dev || c.nothingRouted()
	if err := c.Check(); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "the configuration is good")
	return nil
}

// nothingRouted reports whether no back-end is configured, which dev allows.
func (s *settings) nothingRouted() bool {
	return len(s.Models) == 0 && s.OpenAIURL == "" && !s.Emulator && s.Scenario == ""
}

// redacted hides the password that a URL may hold.
func redacted(raw string) string {
	if u, err := url.Parse(raw); err == nil && u.User != nil {
		return u.Redacted()
	}
	return raw
}

type configPrint struct{ settings }

func (c *configPrint) Run(s *streams) error {
	if err := c.complete(); err != nil {
		return err
	}
	if c.OpenAIKey != "" {
		c.OpenAIKey = "(set)"
	}
	c.OpenAIURL, c.CallbackProxy = redacted(c.OpenAIURL), redacted(c.CallbackProxy)
	for name, b := range c.Backends {
		b.URL = redacted(b.URL)
		for variable := range b.Env {
			b.Env[variable] = "(set)" // It may be a secret.
		}
		c.Backends[name] = b
	}
	e := yaml.NewEncoder(s.out)
	e.SetIndent(2)
	if err := e.Encode(c.Config); err != nil {
		return err
	}
	return e.Close()
}
