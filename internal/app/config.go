package app

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"ringback.dev"
	"ringback.dev/internal/backend"
	"ringback.dev/internal/backend/emulator"
	"ringback.dev/internal/backend/exec"
	"ringback.dev/internal/backend/gemini"
	"ringback.dev/internal/backend/openai"
	"ringback.dev/internal/egress"
)

// Config is everything that can be set. Each field is a flag, a variable in the
// environment (RINGBACK_ and the flag in capitals) and a key of the file; a
// flag wins over the environment, the environment over the file. The tags are
// read by the command line (kong) and the file reader (YAML).
type Config struct {
	Listen string `yaml:"listen" default:"127.0.0.1:8080" placeholder:"HOST:PORT" help:"Address to serve on. Port 0 picks a free one."`
	Data   string `yaml:"data" default:"./ringback-data" placeholder:"DIR" help:"Folder that holds everything: database and master key."`

	PublicURL string `yaml:"public_url" name:"public-url" placeholder:"URL" help:"Address by which clients, receivers and providers of batches reach this server, such as https://ringback.example.com. It is the issuer of tokens."`

	AllowHTTPCallbacks    bool          `yaml:"allow_http_callbacks" name:"allow-http-callbacks" help:"Allow webhooks with plain http addresses."`
	AllowPrivateCallbacks bool          `yaml:"allow_private_callbacks" help:"Allow webhooks to loopback, private and other special addresses."`
	AllowCallbackHosts    []string      `yaml:"allow_callback_hosts" placeholder:"NAME" help:"Names that webhooks may use although their addresses are private, such as hooks.internal or *.corp.example."`
	AllowCallbackPrefixes []string      `yaml:"allow_callback_prefixes" placeholder:"CIDR" help:"Private addresses that webhooks may use, such as 10.1.0.0/16."`
	CallbackPorts         []uint16      `yaml:"callback_ports" placeholder:"PORT" help:"The only ports that webhooks may use; any if none is given."`
	CallbackProxy         string        `yaml:"callback_proxy" placeholder:"URL" help:"Forward proxy for all callbacks, such as http://proxy.example:3128; they are tunnelled with CONNECT."`
	CallbackCA            string        `yaml:"callback_ca" name:"callback-ca" placeholder:"FILE" help:"PEM file of authorities to trust for callbacks besides the system's."`
	DeliveryTimeout       time.Duration `yaml:"delivery_timeout" default:"15s" help:"How long one attempt of a callback may take, 1s to 30s."`
	MaxInFlight           int           `yaml:"max_in_flight" default:"1024" help:"Callbacks under way at once. Half of them is kept for webhooks that answer."`
	PerTargetInFlight     int           `yaml:"per_target_in_flight" default:"64" help:"Callbacks under way at once to one webhook, at most; how many there are depends on how it answers."`

	RetryWindow   time.Duration   `yaml:"retry_window" default:"24h" help:"How long a callback is tried again, 1m to 168h."`
	RetrySchedule []time.Duration `yaml:"retry_schedule" default:"5s,30s,2m,10m,30m,1h,2h" help:"Waits after the first, second, … attempt of a callback, each ±20 %; the last one repeats."`
	CatchUpRate   float64         `yaml:"catch_up_rate" default:"100" help:"Callbacks per second to a webhook that was enabled again, until what waited for it is sent."`
	DisableAfter  time.Duration   `yaml:"disable_after" default:"24h" help:"A webhook is disabled when all its callbacks, at least 10, have failed for so long."`
	StallAfter    time.Duration   `yaml:"stall_after" default:"1h" help:"Age at which a job that has not ended causes the event job.stalled."`
	Retention     time.Duration   `yaml:"retention" default:"720h" help:"How long events and the log of their deliveries are kept, at least the retry window."`
	SigningKeyAge time.Duration   `yaml:"signing_key_age" default:"2160h" help:"Age at which the key that signs callbacks to per-request addresses is replaced."`

	MaxRunning      int           `yaml:"max_running" default:"256" help:"Background jobs that run at once."`
	MaxBatches      int           `yaml:"max_batches" default:"32" help:"Batches that run at once."`
	MaxVideos       int           `yaml:"max_videos" default:"16" help:"Video jobs that run at once."`
	AnswerWithin    time.Duration `yaml:"answer_within" help:"How long a client waits for an interaction in the foreground before it is told to ask again (requires_continuation), which newer SDKs do by themselves; 0 waits for ever. Set it below the time-out of a proxy."`
	MaxRequestBytes int64         `yaml:"max_request_bytes" default:"20971520" help:"Largest request body, largest row of a batch, and bytes that the files of one request may have together."`

	MaxFileBytes   int64         `yaml:"max_file_bytes" default:"2147483648" help:"Largest file that can be uploaded, and largest video that is kept."`
	FileQuotaBytes int64         `yaml:"file_quota_bytes" default:"21474836480" help:"Bytes that a project's uploaded files may have together. Results don't count."`
	FileTTL        time.Duration `yaml:"file_ttl" name:"file-ttl" default:"48h" help:"How long uploaded files are kept."`

	BatchTTL  time.Duration `yaml:"batch_ttl" name:"batch-ttl" default:"48h" help:"Age at which a batch that is not done expires."`
	ResultTTL time.Duration `yaml:"result_ttl" name:"result-ttl" default:"720h" help:"How long the result files of batches are kept."`
	JobTTL    time.Duration `yaml:"job_ttl" name:"job-ttl" default:"1320h" help:"How long interactions and other jobs are kept after their end."`
	VideoTTL  time.Duration `yaml:"video_ttl" name:"video-ttl" default:"48h" help:"How long videos are kept."`

	OpenAIURL string `yaml:"openai_url" name:"openai-url" placeholder:"URL" help:"OpenAI-compatible server for all models that the file does not route, such as http://127.0.0.1:8000/v1."`
	OpenAIKey string `yaml:"openai_key" name:"openai-key" placeholder:"KEY" help:"API key for --openai-url."`
	Scenario  string `yaml:"scenario" placeholder:"FILE" help:"Scenario of the emulator (see docs/emulator.md)."`
	Emulator  bool   `yaml:"emulator" help:"Let the built-in emulator answer the models that nothing else does. No model runs then. Always on in dev."`

	MasterKeyCommand string `yaml:"master_key_command" placeholder:"COMMAND" help:"Shell command that prints the master key, instead of the file in the data folder."`

	Grace     time.Duration `yaml:"grace" default:"10s" help:"How long work under way may go on when the server is told to stop."`
	LogLevel  string        `yaml:"log_level" default:"info" enum:"debug,info,warn,error" help:"Least important lines to log: debug, info, warn or error."`
	LogFormat string        `yaml:"log_format" default:"text" enum:"text,json" help:"Form of the log: text or json."`

	// Backends and Models can be given in the file only.
	Backends map[string]BackendConfig `yaml:"backends" kong:"-"`
	Models   []ModelRoute             `yaml:"models" kong:"-"`

	// Dev makes a server for development: any API key, loopback callbacks, a
	// receiver at /inbox.
	Dev bool `yaml:"-" kong:"-"`
	// NextMasterKey is the text of the master key that RotateMaster seals under, if
	// MasterKey is not empty.
	NextMasterKey string `yaml:"-" kong:"-"`
	// OperatorKey, if not empty, is accepted as an operator's key.
	OperatorKey string `yaml:"-" kong:"-"`
	// MasterKey is the master key's text; empty means the file in Data.
	MasterKey string `yaml:"-" kong:"-"`
}

// BackendConfig is a place where models run.
type BackendConfig struct {
	// Type is "gemini", "openai", "exec" or "emulator".
	Type string `yaml:"type"`
	// URL is the base of an OpenAI-compatible server, or of the Gemini API, which is
	// Google's unless it is set.
	URL string `yaml:"url"`
	// APIKeyEnv names the environment variable that holds the server's key.
	APIKeyEnv string `yaml:"api_key_env"`
	// Timeout bounds one request; MaxRetries the further tries (-1: none).
	Timeout    time.Duration `yaml:"timeout"`
	MaxRetries int           `yaml:"max_retries"`
	// Scenario is the emulator's file.
	Scenario string `yaml:"scenario"`
	// Command is the program that a back-end of type "exec" runs for each job, and its
	// arguments (docs/exec.md tells all). It runs in Dir; without it in the job's own
	// folder.
	Command []string `yaml:"command"`
	Dir     string   `yaml:"dir"`
	// Env is what the command finds in its environment beside PATH, HOME, LANG and TMPDIR.
	Env map[string]string `yaml:"env"`
	// MaxOutput bounds the bytes of all files of one of the command's jobs; zero means
	// 1 GiB.
	MaxOutput int64 `yaml:"max_output"`
	// Grace is how long the command may take to end once it was told to; zero means 5s.
	Grace time.Duration `yaml:"grace"`
	// MaxInFlight bounds the requests under way at once, BatchInFlight the rows of
	// batches among them; zero means no bound, and 64 for rows. A command runs once for
	// each processor unless MaxInFlight says otherwise.
	MaxInFlight   int `yaml:"max_in_flight"`
	BatchInFlight int `yaml:"batch_in_flight"`
	// Batches says where the batches of gemini run: "upstream", which is the default,
	// hands them over whole, "rows" sends their rows one by one.
	Batches string `yaml:"batches"`
}

// ModelRoute sends the models that match to a back-end.
type ModelRoute struct {
	// Match is a model's name or a pattern such as "gemini-*".
	Match string `yaml:"match"`
	// Backend is a name under backends.
	Backend string `yaml:"backend"`
	// As is the model's name there, if it is another.
	As string `yaml:"as"`
	// Fallbacks are tried in their order when a request fails there for a reason
	// that is not its own.
	Fallbacks []FallbackRoute `yaml:"fallbacks"`
	// MaxInFlight bounds the requests under way at once, on whichever back-end; zero
	// means no bound.
	MaxInFlight int `yaml:"max_in_flight"`
}

// FallbackRoute is a further place for the requests of a ModelRoute.
type FallbackRoute struct {
	// Backend is a name under backends.
	Backend string `yaml:"backend"`
	// As is the model's name there, if it is not the one that was asked for.
	As string `yaml:"as"`
}

// withDefaults sets what is zero and has a default that is not.
func (c Config) withDefaults() Config {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{
		{&c.RetryWindow, 24 * time.Hour}, {&c.DisableAfter, 24 * time.Hour}, {&c.StallAfter, time.Hour},
		{&c.Retention, 30 * 24 * time.Hour}, {&c.FileTTL, 48 * time.Hour},
		{&c.BatchTTL, 48 * time.Hour}, {&c.ResultTTL, 30 * 24 * time.Hour}, {&c.VideoTTL, 48 * time.Hour}, {&c.JobTTL, 55 * 24 * time.Hour}, {&c.SigningKeyAge, 90 * 24 * time.Hour},
	} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if c.RetrySchedule == nil {
		c.RetrySchedule = ringback.DefaultBackoff().Delays
	}
	if c.CatchUpRate == 0 {
		c.CatchUpRate = 100
	}
	if c.MaxBatches == 0 {
		c.MaxBatches = 32
	}
	if c.MaxVideos == 0 {
		c.MaxVideos = 16
	}
	if c.MaxFileBytes == 0 {
		c.MaxFileBytes = 2 << 30
	}
	if c.FileQuotaBytes == 0 {
		c.FileQuotaBytes = 20 << 30
	}
	return c
}

// Check finds what is wrong with a configuration. Errors name the key and what
// would be right.
func (c *Config) Check() error {
	set := c.withDefaults()
	return set.check()
}

func (c *Config) check() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen: %q is not HOST:PORT, for example 127.0.0.1:8080", c.Listen)
	}
	if c.Data == "" {
		return fmt.Errorf("data: a folder is required")
	}
	if c.PublicURL != "" {
		if u, err := url.Parse(c.PublicURL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("public_url: %q is not an address such as https://ringback.example.com", c.PublicURL)
		}
	}
	for _, d := range []struct {
		key              string
		value, low, high time.Duration
	}{
		{"delivery_timeout", c.DeliveryTimeout, time.Second, 30 * time.Second},
		{"retry_window", c.RetryWindow, time.Minute, 7 * 24 * time.Hour},
		{"disable_after", c.DisableAfter, time.Hour, 30 * 24 * time.Hour},
		{"stall_after", c.StallAfter, time.Second, 30 * 24 * time.Hour},
		{"retention", c.Retention, c.RetryWindow, 10 * 365 * 24 * time.Hour},
		{"file_ttl", c.FileTTL, time.Minute, 10 * 365 * 24 * time.Hour},
		{"batch_ttl", c.BatchTTL, time.Minute, 10 * 365 * 24 * time.Hour},
		{"result_ttl", c.ResultTTL, time.Minute, 10 * 365 * 24 * time.Hour},
		{"job_ttl", c.JobTTL, time.Minute, 10 * 365 * 24 * time.Hour},
		{"video_ttl", c.VideoTTL, time.Minute, 10 * 365 * 24 * time.Hour},
		{"signing_key_age", c.SigningKeyAge, time.Hour, 10 * 365 * 24 * time.Hour},
	} {
		if d.value < d.low || d.value > d.high {
			return fmt.Errorf("%s: %s is not between %s and %s", d.key, short(d.value), short(d.low), short(d.high))
		}
	}
	if len(c.RetrySchedule) == 0 || len(c.RetrySchedule) > 50 {
		return fmt.Errorf("retry_schedule: give 1 to 50 waits, for example 5s,30s,2m")
	}
	for _, wait := range c.RetrySchedule {
		if wait < time.Second || wait > 24*time.Hour {
			return fmt.Errorf("retry_schedule: %s is not between 1s and 24h", short(wait))
		}
	}
	if c.CatchUpRate <= 0 || c.CatchUpRate > 10_000 {
		return fmt.Errorf("catch_up_rate: %g is not between 0 and 10000", c.CatchUpRate)
	}
	for _, n := range []struct {
		key   string
		value int64
	}{{"max_in_flight", int64(c.MaxInFlight)}, {"per_target_in_flight", int64(c.PerTargetInFlight)},
		{"max_running", int64(c.MaxRunning)}, {"max_batches", int64(c.MaxBatches)}, {"max_videos", int64(c.MaxVideos)}, {"max_request_bytes", c.MaxRequestBytes}, {"max_file_bytes", c.MaxFileBytes}, {"file_quota_bytes", c.FileQuotaBytes}} {
		if n.value < 1 {
			return fmt.Errorf("%s: %d is less than 1", n.key, n.value)
		}
	}
	if _, err := c.outside(); err != nil {
		return err
	}
	if c.AnswerWithin < 0 {
		return fmt.Errorf("answer_within: %s is negative", c.AnswerWithin)
	}
	if c.Grace < 0 {
		return fmt.Errorf("grace: %s is negative", c.Grace)
	}
	_, err := c.router(nil)
	return err
}

// short prints a duration without the minutes and seconds that are zero.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// outside is what callbacks may reach, and how.
func (c *Config) outside() (egress.Options, error) {
	o := egress.Options{AllowHTTP: c.AllowHTTPCallbacks, AllowPrivate: c.AllowPrivateCallbacks, AllowHosts: c.AllowCallbackHosts, Ports: c.CallbackPorts,
		MaxIdlePerHost: c.PerTargetInFlight}
	for _, text := range c.AllowCallbackPrefixes {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() {
			return o, fmt.Errorf("allow_callback_prefixes: %q is not a prefix such as 10.1.0.0/16", text)
		}
		o.AllowPrefixes = append(o.AllowPrefixes, p)
	}
	if c.CallbackProxy != "" {
		u, err := url.Parse(c.CallbackProxy)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
			return o, fmt.Errorf("callback_proxy: expected an address such as http://proxy.example:3128") // It may hold a password.
		}
		o.Proxy = u
	}
	if c.CallbackCA != "" {
		pem, err := os.ReadFile(c.CallbackCA)
		if err != nil {
			return o, fmt.Errorf("callback_ca: %w", err)
		}
		if o.RootCAs, err = x509.SystemCertPool(); err != nil {
			o.RootCAs = x509.NewCertPool()
		}
		if !o.RootCAs.AppendCertsFromPEM(pem) {
			return o, fmt.Errorf("callback_ca: there is no certificate in %s", c.CallbackCA)
		}
	}
	return o, nil
}

// backoff is when callbacks are tried again.
func (c *Config) backoff() ringback.Backoff {
	b := ringback.DefaultBackoff()
	b.Window, b.Delays = c.RetryWindow, c.RetrySchedule
	return b
}

// router builds the back-ends and the routes to them.
func (c *Config) router(log *slog.Logger) (*backend.Router, error) {
	built := make(map[string]backend.Backend, len(c.Backends))
	limits := make(map[backend.Backend]backend.Limits)
	for name, b := range c.Backends {
		if b.MaxInFlight < 0 || b.BatchInFlight < 0 {
			return nil, fmt.Errorf("backends.%s: max_in_flight and batch_in_flight can't be negative", name)
		}
		if b.Batches != "" && b.Batches != "rows" && (b.Batches != "upstream" || b.Type != "gemini") {
			return nil, fmt.Errorf("backends.%s: batches: %q is neither rows nor, for the type gemini, upstream", name, b.Batches)
		}
		var err error
		// A name in the file may hold anything.
		if built[name], err = b.build(filepath.Join(c.Data, "exec-"+url.PathEscape(name)), log); err != nil {
			return nil, fmt.Errorf("backends.%s: %w", name, err)
		}
		limits[built[name]] = b.limits()
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
		if m.MaxInFlight < 0 {
			return nil, fmt.Errorf("models[%d].max_in_flight: it can't be negative", i)
		}
		route := backend.Route{Match: m.Match, Name: m.Backend, Backend: b, As: m.As, Limits: backend.Limits{InFlight: m.MaxInFlight},
			Rows: c.Backends[m.Backend].Batches == "rows"}
		for k, f := range m.Fallbacks {
			at := fmt.Sprintf("models[%d].fallbacks[%d]", i, k)
			if built[f.Backend] == nil {
				return nil, fmt.Errorf("%s.backend: %q is not among backends", at, f.Backend)
			}
			if f == (FallbackRoute{m.Backend, m.As}) || slices.Contains(m.Fallbacks[:k], f) {
				return nil, fmt.Errorf("%s: model and back-end are the same as before; give another backend or as", at)
			}
			route.Fallbacks = append(route.Fallbacks, backend.Fallback{Name: f.Backend, Backend: built[f.Backend], As: f.As})
		}
		routes = append(routes, route)
	}
	if c.OpenAIURL != "" {
		b, err := openai.New(openai.Config{BaseURL: c.OpenAIURL, APIKey: c.OpenAIKey})
		if err != nil {
			return nil, fmt.Errorf("openai_url: %w", err)
		}
		routes = append(routes, backend.Route{Match: "*", Name: "openai_url", Backend: b})
	}
	if c.Emulator || c.Dev || c.Scenario != "" {
		b, err := BackendConfig{Type: "emulator", Scenario: c.Scenario}.build("", log)
		if err != nil {
			return nil, fmt.Errorf("scenario: %w", err)
		}
		routes = append(routes, backend.Route{Match: "*", Name: "emulator", Backend: b})
	}
	if len(routes) == 0 {
		return nil, fmt.Errorf("no model can run: give --openai-url URL, or backends and models in the file (docs/config.md), or --emulator to try without a model")
	}
	return backend.NewRouter(routes, limits)
}

// limits are the back-end's own.
func (b BackendConfig) limits() backend.Limits {
	l := backend.Limits{InFlight: b.MaxInFlight, Rows: b.BatchInFlight}
	if b.Type == "exec" && l.InFlight == 0 {
		// A program for each of many requests would bring the machine down.
		l.InFlight = runtime.GOMAXPROCS(0)
	}
	return l
}

// build makes the back-end. Nothing is run or written yet; temp is a folder for what
// it needs to write.
func (b BackendConfig) build(temp string, log *slog.Logger) (backend.Backend, error) {
	key := ""
	if b.APIKeyEnv != "" {
		if key = os.Getenv(b.APIKeyEnv); key == "" {
			return nil, fmt.Errorf("api_key_env: the environment variable %s is empty", b.APIKeyEnv)
		}
	}
	switch b.Type {
	case "gemini":
		if key == "" {
			return nil, fmt.Errorf("api_key_env: name the environment variable that holds the API key, such as GEMINI_API_KEY")
		}
		return gemini.New(gemini.Config{URL: b.URL, APIKey: key, Timeout: b.Timeout, MaxRetries: b.MaxRetries})
	case "openai":
		return openai.New(openai.Config{BaseURL: b.URL, APIKey: key, Timeout: b.Timeout, MaxRetries: b.MaxRetries})
	case "exec":
		return exec.New(exec.Config{Command: b.Command, Dir: b.Dir, Env: b.Env, Timeout: b.Timeout, Grace: b.Grace, MaxOutput: b.MaxOutput, Temp: temp, Log: log})
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
	return nil, fmt.Errorf("type: %q is none of gemini, openai, exec, emulator", b.Type)
}
