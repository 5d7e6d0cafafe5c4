package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCheck wants each mistake to be named by its key, with what would be right.
func TestCheck(t *testing.T) {
	emulated := map[string]BackendConfig{"e": {Type: "emulator"}}
	file := filepath.Join(t.TempDir(), "scenario.yaml")
	if err := os.WriteFile(file, []byte("rules:\n  - match: {model: x}\n    tekst: hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name   string
		change func(*Config)
		want   string // Empty: nothing is wrong.
	}{
		{"good", func(*Config) {}, ""},
		{"no port", func(c *Config) { c.Listen = "localhost" }, "listen:"},
		{"no folder", func(c *Config) { c.Data = "" }, "data:"},
		{"time-out too short", func(c *Config) { c.DeliveryTimeout = time.Millisecond }, "delivery_timeout: 1ms is not between 1s and 30s"},
		{"time-out too long", func(c *Config) { c.DeliveryTimeout = time.Minute }, "delivery_timeout: 1m is"},
		{"longest time-out", func(c *Config) { c.DeliveryTimeout = 30 * time.Second }, ""},
		{"nothing in flight", func(c *Config) { c.MaxInFlight = 0 }, "max_in_flight:"},
		{"nothing per target", func(c *Config) { c.PerTargetInFlight = -1 }, "per_target_in_flight:"},
		{"nothing runs", func(c *Config) { c.MaxRunning = 0 }, "max_running:"},
		{"no bodies", func(c *Config) { c.MaxRequestBytes = 0 }, "max_request_bytes:"},
		{"negative grace", func(c *Config) { c.Grace = -time.Second }, "grace:"},
		{"no grace", func(c *Config) { c.Grace = 0 }, ""},
		{"no back-end", func(c *Config) { c.Emulator = false }, "--openai-url"},
		{"a back-end that no model uses", func(c *Config) { c.Emulator, c.Backends = false, emulated }, "no model can run"},
		{"route", func(c *Config) {
			c.Backends, c.Models = emulated, []ModelRoute{{Match: "gemini-*", Backend: "e", As: "x"}}
		}, ""},
		{"unknown back-end", func(c *Config) {
			c.Backends, c.Models = emulated, []ModelRoute{{Match: "a", Backend: "e"}, {Match: "b", Backend: "f"}}
		}, `models[1].backend: "f" is not among backends`},
		{"fallbacks", func(c *Config) {
			c.Backends, c.Models = emulated, []ModelRoute{{Match: "a", Backend: "e", Fallbacks: []FallbackRoute{{Backend: "e", As: "x"}, {Backend: "e", As: "y"}}}}
		}, ""},
		{"unknown fallback", func(c *Config) {
			c.Backends, c.Models = emulated, []ModelRoute{{Match: "a", Backend: "e", Fallbacks: []FallbackRoute{{Backend: "e", As: "x"}, {Backend: "f"}}}}
		}, `models[0].fallbacks[1].backend: "f" is not among backends`},
		{"fallback on itself", func(c *Config) {
			c.Backends, c.Models = emulated, []ModelRoute{{Match: "a", Backend: "e", As: "x", Fallbacks: []FallbackRoute{{Backend: "e", As: "x"}}}}
		}, `models[0].fallbacks[0]: model and back-end are the same as before`},
		{"the same fallback again", func(c *Config) {
			c.Backends, c.Models = emulated, []ModelRoute{{Match: "a", Backend: "e", Fallbacks: []FallbackRoute{{Backend: "e", As: "x"}, {Backend: "e", As: "x"}}}}
		}, `models[0].fallbacks[1]: model and back-end`},
		{"malformed pattern", func(c *Config) { c.Backends, c.Models = emulated, []ModelRoute{{Match: "[", Backend: "e"}} }, "models[0].match:"},
		{"empty pattern", func(c *Config) { c.Backends, c.Models = emulated, []ModelRoute{{Backend: "e"}} }, "models[0].match:"},
		{"unknown type", func(c *Config) { c.Backends = map[string]BackendConfig{"b": {Type: "magic"}} }, `backends.b: type: "magic" is none of gemini, openai, exec, emulator`},
		{"gemini without a key", func(c *Config) { c.Backends = map[string]BackendConfig{"g": {Type: "gemini"}} }, "backends.g: api_key_env: name the environment variable"},
		{"batches of others", func(c *Config) { c.Backends = map[string]BackendConfig{"e": {Type: "emulator", Batches: "upstream"}} }, "backends.e: batches:"},
		{"unknown batches", func(c *Config) { c.Backends = map[string]BackendConfig{"g": {Type: "gemini", Batches: "whole"}} }, "backends.g: batches:"},
		{"gemini", func(c *Config) {
			c.Backends = map[string]BackendConfig{"g": {Type: "gemini", APIKeyEnv: "PATH", Batches: "rows"}, "h": {Type: "gemini", APIKeyEnv: "PATH", Batches: "upstream"}}
		}, ""},
		{"no url", func(c *Config) { c.Backends = map[string]BackendConfig{"b": {Type: "openai"}} }, "backends.b:"},
		{"empty key variable", func(c *Config) {
			c.Backends = map[string]BackendConfig{"b": {Type: "openai", URL: "http://127.0.0.1:1/v1", APIKeyEnv: "RINGBACK_TEST_NOT_SET"}}
		}, "backends.b: api_key_env: the environment variable RINGBACK_TEST_NOT_SET"},
		{"command", func(c *Config) {
			c.Backends = map[string]BackendConfig{"../b": {Type: "exec", Command: []string{"sh"}, Env: map[string]string{"A": "b"}}}
		}, ""},
		{"no command", func(c *Config) { c.Backends = map[string]BackendConfig{"b": {Type: "exec"}} }, "backends.b: command: give the program"},
		{"missing program", func(c *Config) {
			c.Backends = map[string]BackendConfig{"b": {Type: "exec", Command: []string{"no-such-program"}}}
		}, `backends.b: command: "no-such-program"`},
		{"malformed --openai-url", func(c *Config) { c.OpenAIURL = "nonsense" }, "openai_url:"},
		{"no such scenario", func(c *Config) { c.Scenario = "nowhere.yaml" }, "scenario:"},
		{"unknown key in a scenario", func(c *Config) { c.Scenario = file }, "line 3"},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := config(t, t.TempDir())
			x.change(&c)
			err := c.Check()
			if x.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), x.want) {
				t.Fatalf("got %v, want an error with %q", err, x.want)
			}
		})
	}
}
