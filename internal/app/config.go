package app

import (
	"fmt"
	"net"
	"os"
	"path"
	"time"

	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/emulator"
	"ringback.dev/internal/backend/openai"
)

// Config is everything that can be set. Each field is a flag, a variable in the
// environment (RINGBACK_ and the flag in capitals) and a key of the file; a
// flag wins over the environment, the environment over the file. The tags are
// read by the command line (kong) and the file reader (YAML).
type Config struct {
	Listen string `yaml:"listen" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Address to serve on. Port 0 picks a free one."`
	Data   string `yaml:"data" default:"./ringback-data" placeholder:"DIR" help:"Folder that holds everything: database and master key."`

	AllowHTTPCallbacks    bool          `yaml:"allow_http_callbacks" name:"allow-http-callbacks" help:"Allow webhooks with plain http addresses."`
	AllowPrivateCallbacks bool          `yaml:"allow_private_callbacks" help:"Allow webhooks to loopback, private and other special addresses."`
	DeliveryTimeout       time.Duration `yaml:"delivery_timeout" default:"15s" help:"How long one attempt of a callback may take, 1s to 30s."`
	MaxInFlight           int           `yaml:"max_in_flight" default:"512" help:"Callbacks under way at once."`
	PerTargetInFlight     int           `yaml:"per_target_in_flight" default:"64" help:"Callbacks under way at once to one webhook."`

	MaxRunning      int   `yaml:"max_running" default:"256" help:"Background jobs that run at once."`
	MaxRequestBytes int64 `yaml:"max_request_bytes" default:"20971520" help:"Largest request body that is accepted."`

	OpenAIURL string `yaml:"openai_url" name:"openai-url" placeholder:"URL" help:"OpenAI-compatible server for all models that the file does not route, such as http://127.0.0.1:8000/v1."`
	OpenAIKey string `yaml:"openai_key" name:"openai-key" placeholder:"KEY" help:"API key for --openai-url."`
	Scenario  string `yaml:"scenario" placeholder:"FILE" help:"Scenario of the emulator (see docs/emulator.md)."`
	Emulator  bool   `yaml:"emulator" help:"Let the built-in emulator answer the models that nothing else does. No model runs then. Always on in dev."`

	Grace     time.Duration `yaml:"grace" default:"10s" help:"How long work under way may go on when the server is told to stop."`
	LogLevel  string        `yaml:"log_level" default:"info" enum:"debug,info,warn,error" help:"Least important lines to log: debug, info, warn or error."`
	LogFormat string        `yaml:"log_format" default:"text" enum:"text,json" help:"Form of the log: text or json."`

	// Backends and Models can be given in the file only.
	Backends map[string]BackendConfig `yaml:"backends" kong:"-"`
	Models   []ModelRoute             `yaml:"models" kong:"-"`

	// Dev makes a server for development: any API key, loopback callbacks, a
	// receiver at /inbox.
	Dev bool `yaml:"-" kong:"-"`
	// MasterKey is the master key's text; empty means the file in Data.
	MasterKey string `yaml:"-" kong:"-"`
}

// BackendConfig is a place where models run.
type BackendConfig struct {
	// Type is "openai" or "emulator".
	Type string `yaml:"type"`
	// URL is the base of an OpenAI-compatible server.
	URL string `yaml:"url"`
	// APIKeyEnv names the environment variable that holds the server's key.
	APIKeyEnv string `yaml:"api_key_env"`
	// Timeout bounds one request; MaxRetries the further tries (-1: none).
	Timeout    time.Duration `yaml:"timeout"`
	MaxRetries int           `yaml:"max_retries"`
	// Scenario is the emulator's file.
	Scenario string `yaml:"scenario"`
}

// ModelRoute sends the models that match to a back-end.
type ModelRoute struct {
	// Match is a model's name or a pattern such as "gemini-*".
	Match string `yaml:"match"`
	// Backend is a name under backends.
	Backend string `yaml:"backend"`
	// As is the model's name there, if it is another.
	As string `yaml:"as"`
}

// Check finds what is wrong with a configuration. Errors name the key and what
// would be right.
func (c *Config) Check() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen: %q is not HOST:PORT, for example 127.0.0.1:8080", c.Listen)
	}
	if c.Data == "" {
		return fmt.Errorf("data: a folder is required")
	}
	if c.DeliveryTimeout < time.Second || c.DeliveryTimeout > 30*time.Second {
		return fmt.Errorf("delivery_timeout: %s is not between 1s and 30s", c.DeliveryTimeout)
	}
	for _, n := range []struct {
		key   string
		value int64
	}{{"max_in_flight", int64(c.MaxInFlight)}, {"per_target_in_flight", int64(c.PerTargetInFlight)},
		{"max_running", int64(c.MaxRunning)}, {"max_request_bytes", c.MaxRequestBytes}} {
		if n.value < 1 {
			return fmt.Errorf("%s: %d is less than 1", n.key, n.value)
		}
	}
	if c.Grace < 0 {
		return fmt.Errorf("grace: %s is negative", c.Grace)
	}
	_, err := c.router()
	return err
}

// router builds the back-ends and the routes to them.
func (c *Config) router() (*backend.Router, error) {
	built := make(map[string]backend.Backend, len(c.Backends))
	for name, b := range c.Backends {
		var err error
		if built[name], err = b.build(); err != nil {
			return nil, fmt.Errorf("backends.%s: %w", name, err)
		}
	}
	var routes []backend.Route
	for i, m := range c.Models {
		b := built[m.Backend]
		if b == nil {
			return nil, fmt.Errorf("models[%d].backend: %q is not among backends", i, m.Backend)
		}
		if _, err := path.Match(m.Match, ""); err != nil || m.Match == "" {
			return nil, fmt.Errorf("models[%d].match: %q is not a model name or pattern", i, m.Match)
		}
		routes = append(routes, backend.Route{Match: m.Match, Backend: b, As: m.As})
	}
	if c.OpenAIURL != "" {
		b, err := openai.New(openai.Config{BaseURL: c.OpenAIURL, APIKey: c.OpenAIKey})
		if err != nil {
			return nil, fmt.Errorf("openai_url: %w", err)
		}
		routes = append(routes, backend.Route{Match: "*", Backend: b})
	}
	if c.Emulator || c.Dev || c.Scenario != "" {
		b, err := BackendConfig{Type: "emulator", Scenario: c.Scenario}.build()
		if err != nil {
			return nil, fmt.Errorf("scenario: %w", err)
		}
		routes = append(routes, backend.Route{Match: "*", Backend: b})
	}
	if len(routes) == 0 {
		return nil, fmt.Errorf("no model can run: give --openai-url URL, or backends and models in the file (docs/config.md), or --emulator to try without a model")
	}
	return backend.NewRouter(routes)
}

func (b BackendConfig) build() (backend.Backend, error) {
	switch b.Type {
	case "openai":
		key := ""
		if b.APIKeyEnv != "" {
			if key = os.Getenv(b.APIKeyEnv); key == "" {
				return nil, fmt.Errorf("api_key_env: the environment variable %s is empty", b.APIKeyEnv)
			}
		}
		return openai.New(openai.Config{BaseURL: b.URL, APIKey: key, Timeout: b.Timeout, MaxRetries: b.MaxRetries})
	case "emulator":
		if b.Scenario == "" {
			return emulator.New(nil), nil
		}
		s, err := emulator.LoadScenario(b.Scenario)
		if err != nil {
			return nil, err
		}
		return emulator.New(s), nil
	}
	return nil, fmt.Errorf("type: %q is neither openai nor emulator", b.Type)
}
