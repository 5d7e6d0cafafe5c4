package edge

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Config is the file of an edge: one YAML document. What is zero has a default.
// Secrets never stand in it: keys that end in _env name a variable of the
// environment, those that end in _file a file.
type Config struct {
	// Listen is the address that senders reach. The default is 127.0.0.1:8090.
	Listen string `yaml:"listen"`
	// Data is the folder of the inbox. The default is ./ringback-edge.
	Data string `yaml:"data"`
	// TLS has the edge speak https. Without it a proxy must.
	TLS TLS `yaml:"tls"`
	// TrustedProxies are the prefixes of proxies whose X-Forwarded-For is believed.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// Admin is where metrics and the page of the inbox are served.
	Admin Admin `yaml:"admin"`
	// Log says what is logged.
	Log Log `yaml:"log"`
	// Keep is how long events are kept when they are done, at least a day, by default
	// a week. Their ids are known for longer. KeepDead is the same for what was given
	// up, by default 30 days.
	Keep     time.Duration `yaml:"keep"`
	KeepDead time.Duration `yaml:"keep_dead"`
	// Retry and Timeout are those of actions that set none.
	Retry   Retry         `yaml:"retry"`
	Timeout time.Duration `yaml:"timeout"`
	// MaxRunning bounds the actions that run at once, by default 64.
	MaxRunning int `yaml:"max_running"`
	// Grace is how long actions under way may go on when the edge is told to stop,
	// by default 10s.
	Grace time.Duration `yaml:"grace"`
	// Egress says what actions may reach.
	Egress Egress `yaml:"egress"`
	// Servers are Gemini-compatible servers, Databases, Buckets and Mail what they say,
	// by names that actions use.
	Servers   map[string]Server   `yaml:"servers"`
	Databases map[string]Database `yaml:"databases"`
	Buckets   map[string]Bucket   `yaml:"buckets"`
	Mail      map[string]Mail     `yaml:"mail"`
	// Sources are who may send, by name.
	Sources map[string]Source `yaml:"sources"`
	// Routes say what is done about an event. All that match count.
	Routes []Route `yaml:"routes"`
	// Reconcile has the edge look at servers for what has ended and did not arrive.
	Reconcile []Reconcile `yaml:"reconcile"`
}

// Reconcile looks, from time to time, for what has ended and did not arrive. What a
// ringback server has given up it is told to send again; what has no delivery goes
// into the inbox as if the source had sent it.
type Reconcile struct {
	// Server is a name under servers. Kind is what it is: ringback, or gemini for
	// Google's API, which tells of batches only.
	Server string `yaml:"server"`
	Kind   string `yaml:"kind"`
	// Source is the name of the source whose events it sends.
	Source string `yaml:"source"`
	// URI is the address at which a ringback server calls the source, such as
	// https://edge.example.com/ringback: what was to go elsewhere is none of the
	// edge's. Without it whatever the server has given up is sent again.
	URI string `yaml:"uri"`
	// Every is the time between two looks, by default 15m; Since is how long ago
	// something may have ended, by default 72h.
	Every time.Duration `yaml:"every"`
	Since time.Duration `yaml:"since"`
}

// TLS names the files of a certificate chain and its key, in PEM. They are read
// anew on SIGHUP.
type TLS struct {
	// Cert and Key are the files.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Admin is a listener for people and Prometheus.
type Admin struct {
	// Listen is its address, by default 127.0.0.1:8091; "off" means none. The page of
	// the inbox is served on loopback, and elsewhere only with a password.
	Listen string `yaml:"listen"`
	// PasswordEnv or PasswordFile is asked for by the page (the user name does not
	// matter).
	PasswordEnv  string `yaml:"password_env"`
	PasswordFile string `yaml:"password_file"`
}

// Log says what is logged.
type Log struct {
	// Level is debug, info, warn or error; Format text or json.
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Retry says when an action that failed is tried again.
type Retry struct {
	// Schedule are the waits after the first, second, … attempt, each ±20 %; the last
	// one repeats. The default is 5s, 30s, 2m, 10m, 30m, 1h, 2h.
	Schedule []time.Duration `yaml:"schedule"`
	// Window is how long it is tried, by default 24h. Then it is given up.
	Window time.Duration `yaml:"window"`
}

// Egress says what is reached beyond public https addresses.
type Egress struct {
	// AllowHTTP permits plain http.
	AllowHTTP bool `yaml:"allow_http"`
	// AllowPrivate permits loopback, private and other special addresses,
	// AllowPrefixes some of them, AllowHosts what names such as hooks.internal or
	// *.corp.example resolve to.
	AllowPrivate  bool     `yaml:"allow_private"`
	AllowPrefixes []string `yaml:"allow_prefixes"`
	AllowHosts    []string `yaml:"allow_hosts"`
	// Ports, if any, are the only ones.
	Ports []uint16 `yaml:"ports"`
	// Proxy is a forward proxy for everything, such as http://proxy.example:3128.
	// ProxyEnv holds one with a password.
	Proxy    string `yaml:"proxy"`
	ProxyEnv string `yaml:"proxy_env"`
	// CA is a PEM file of authorities to trust besides the system's.
	CA string `yaml:"ca"`
}

// Server is a Gemini-compatible server: ringback, or Google's.
type Server struct {
	// URL is its base, such as https://ringback.example.com.
	URL string `yaml:"url"`
	// APIKeyEnv or APIKeyFile holds the API key.
	APIKeyEnv  string `yaml:"api_key_env"`
	APIKeyFile string `yaml:"api_key_file"`
	// Egress is used for this server instead of the common rules.
	Egress *Egress `yaml:"egress"`
}

// Database is where sql actions write: their own database, not the inbox.
type Database struct {
	// URLEnv or URLFile holds its address: postgres://… or sqlite:PATH. One without a
	// password may stand in URL.
	URL     string `yaml:"url"`
	URLEnv  string `yaml:"url_env"`
	URLFile string `yaml:"url_file"`
	// MaxOpen bounds the connections, by default 4.
	MaxOpen int `yaml:"max_open"`
}

// Bucket is one of an S3-compatible store, to which fetch actions write.
type Bucket struct {
	// URL is the store's address without the bucket, such as
	// https://s3.eu-central-1.amazonaws.com or https://storage.googleapis.com.
	URL string `yaml:"url"`
	// Region is the store's; the default is that in the address, or else us-east-1.
	Region string `yaml:"region"`
	// Bucket is its name at the store.
	Bucket string `yaml:"bucket"`
	// AccessKeyIDEnv or AccessKeyIDFile and SecretAccessKeyEnv or SecretAccessKeyFile
	// hold the access key, SessionTokenEnv or SessionTokenFile what belongs to a
	// temporary one. The key needs to put objects and to abort uploads, no more.
	AccessKeyIDEnv      string `yaml:"access_key_id_env"`
	AccessKeyIDFile     string `yaml:"access_key_id_file"`
	SecretAccessKeyEnv  string `yaml:"secret_access_key_env"`
	SecretAccessKeyFile string `yaml:"secret_access_key_file"`
	SessionTokenEnv     string `yaml:"session_token_env"`
	SessionTokenFile    string `yaml:"session_token_file"`
	// PathStyle is true if the bucket's name goes into the path of an address, false if
	// it goes before the host, or auto, the default: before the host at Amazon, Google
	// and others that are known to want it there.
	PathStyle string `yaml:"path_style"`
	// Egress is used for this store instead of the common rules.
	Egress *Egress `yaml:"egress"`
}

// Mail is a server for outgoing mail (SMTP).
type Mail struct {
	// Server is its HOST:PORT.
	Server string `yaml:"server"`
	// TLS is starttls (the default), tls (from the first byte) or none.
	TLS string `yaml:"tls"`
	// User and PasswordEnv or PasswordFile log in.
	User         string `yaml:"user"`
	PasswordEnv  string `yaml:"password_env"`
	PasswordFile string `yaml:"password_file"`
	// From is the sender's address.
	From string `yaml:"from"`
	// Egress is used for this server instead of the common rules.
	Egress *Egress `yaml:"egress"`
}

// Source is a sender of webhooks after Standard Webhooks, and how its messages are
// verified. What is set here decides the scheme: secrets v1, public_keys v1a, jwks
// v1a and, with an audience, jwt.
type Source struct {
	// Path is where it sends to, such as /hooks/gemini.
	Path string `yaml:"path"`
	// SecretEnv and SecretFile hold signing secrets (v1): one, or a list during a
	// rotation.
	SecretEnv  List `yaml:"secret_env"`
	SecretFile List `yaml:"secret_file"`
	// PublicKeys are whpk_ keys (v1a).
	PublicKeys List `yaml:"public_keys"`
	// JWKS is the address of the sender's published keys (v1a and jwt).
	JWKS string `yaml:"jwks"`
	// Audience are the names of this receiver of which a JWT must name one, usually the
	// address that the sender was given. Issuer, if set, must have issued it.
	Audience List   `yaml:"audience"`
	Issuer   string `yaml:"issuer"`
	// AllowUnbound takes JWTs without a hash of the body, as Google's documents
	// describe them; their event is compared with the body instead.
	AllowUnbound bool `yaml:"allow_unbound"`
	// Tolerance is how far a timestamp may be from the clock, by default 5m.
	Tolerance time.Duration `yaml:"tolerance"`
	// MaxBody bounds a body, by default 1MiB.
	MaxBody Size `yaml:"max_body"`
	// AllowFrom are the prefixes of addresses that may send; without any, all.
	AllowFrom List `yaml:"allow_from"`
}

// Route has actions done about the events that match.
type Route struct {
	// Name names it in logs, metrics and the inbox.
	Name string `yaml:"name"`
	// Source and Type are names or patterns with *, one or a list; without, all match.
	Source List `yaml:"source"`
	Type   List `yaml:"type"`
	// Metadata are members of the event's user_metadata that must have these values: 3 is
	// a number, "3" a text; a date is a text.
	Metadata map[string]yaml.Node `yaml:"metadata"`
	// When is an expression that must be true.
	When string `yaml:"when"`
	// Actions are independent of each other: one that fails is tried again alone.
	Actions []Action `yaml:"actions"`
}

// Action is one thing to do: exactly one of the kinds.
type Action struct {
	// Name names it within its route; the default is its kind. An action under a
	// new name is another action.
	Name string `yaml:"name"`
	// Timeout bounds one attempt, by default 30s (15m for fetch).
	Timeout time.Duration `yaml:"timeout"`
	// Retry is used instead of the common one.
	Retry Retry `yaml:"retry"`
	// MaxRunning bounds how many of it run at once, by default 8.
	MaxRunning int `yaml:"max_running"`

	// HTTP forwards the event, Exec runs a command, SQL changes a database, Job submits
	// a job, Notify tells people, Fetch downloads a result.
	HTTP   *HTTP   `yaml:"http"`
	Exec   *Exec   `yaml:"exec"`
	SQL    *SQL    `yaml:"sql"`
	Job    *Job    `yaml:"job"`
	Notify *Notify `yaml:"notify"`
	Fetch  *Fetch  `yaml:"fetch"`
}

// HTTP forwards the event: the same body under the same webhook-id, signed anew.
type HTTP struct {
	// URL is where it goes.
	URL string `yaml:"url"`
	// SecretEnv and SecretFile hold the next hop's signing secrets (whsec_, or whsk_
	// for v1a): one, or a list during a rotation.
	SecretEnv  List `yaml:"secret_env"`
	SecretFile List `yaml:"secret_file"`
	// Unsigned forwards without a signature, to what verifies nothing.
	Unsigned bool `yaml:"unsigned"`
	// Headers are templates of further headers, HeadersEnv names variables that hold
	// the values of others.
	Headers    map[string]string `yaml:"headers"`
	HeadersEnv map[string]string `yaml:"headers_env"`
	// Egress is used for this action instead of the common rules.
	Egress *Egress `yaml:"egress"`
}

// Exec runs a command with the event's body as its standard input. Exit code 0
// is success, 100 gives up at once, everything else is tried again.
type Exec struct {
	// Command is the program and templates of its arguments. There is no shell.
	Command []string `yaml:"command"`
	// Dir is the folder that it runs in, and where ./PROGRAM is looked for.
	Dir string `yaml:"dir"`
	// Env are templates of variables, PassEnv names those to pass on from the edge's own
	// environment. Beside them the command sees PATH, HOME, LANG, TZ, TMPDIR and
	// RINGBACK_EVENT_ID, _TYPE, _SOURCE, _ACTION and _ATTEMPT.
	Env     map[string]string `yaml:"env"`
	PassEnv List              `yaml:"pass_env"`
}

// SQL runs statements in one transaction that also claims the event, so that
// their effect is there exactly once.
type SQL struct {
	// Database is a name under databases.
	Database string `yaml:"database"`
	// Statements are run in their order.
	Statements []Statement `yaml:"statements"`
}

// Statement is one statement of an sql action.
type Statement struct {
	// SQL is its text, with the database's own placeholders ($1 or ?).
	SQL string `yaml:"sql"`
	// Args are expressions, one for each placeholder. Lists and maps become JSON.
	Args []string `yaml:"args"`
}

// Job submits the next job to a Gemini-compatible server, once per event.
type Job struct {
	// Server is a name under servers.
	Server string `yaml:"server"`
	// Kind is interaction, batch, embeddings or video.
	Kind string `yaml:"kind"`
	// Model is a template of the model's name. Interactions may name theirs in the body.
	Model string `yaml:"model"`
	// Body is the request; strings in it are templates. An interaction runs in the
	// background unless it says otherwise.
	Body yaml.Node `yaml:"body"`
}

// Notify tells people.
type Notify struct {
	// SlackEnv, SlackFile and so on hold the address of an incoming webhook, Mail is a
	// name under mail: exactly one of them.
	SlackEnv    string `yaml:"slack_env"`
	SlackFile   string `yaml:"slack_file"`
	TeamsEnv    string `yaml:"teams_env"`
	TeamsFile   string `yaml:"teams_file"`
	DiscordEnv  string `yaml:"discord_env"`
	DiscordFile string `yaml:"discord_file"`
	Mail        string `yaml:"mail"`
	// To are the addresses that mail goes to, Subject is a template.
	To      List   `yaml:"to"`
	Subject string `yaml:"subject"`
	// Text is a template. Without it type, id and what went wrong are told.
	Text string `yaml:"text"`
	// Egress is used for this action instead of the common rules.
	Egress *Egress `yaml:"egress"`
}

// Fetch downloads what the event points to.
type Fetch struct {
	// URL is an expression for the address. The default takes data.output_file_uri, or
	// data.file_name from the server.
	URL string `yaml:"url"`
	// Server is a name under servers, whose API key is shown to its own address and to
	// no other.
	Server string `yaml:"server"`
	// Folder is where files go, or Bucket, a name under buckets.
	Folder string `yaml:"folder"`
	Bucket string `yaml:"bucket"`
	// File is a template of the file's name or the object's key in it, by default
	// {{ id }}.
	File string `yaml:"file"`
	// MaxBytes bounds a file, by default 2GiB.
	MaxBytes Size `yaml:"max_bytes"`
	// Egress is used for this action instead of the common rules.
	Egress *Egress `yaml:"egress"`
}

// List is one string or several.
type List []string

// UnmarshalYAML reads a scalar or a sequence of them.
func (l *List) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		*l = List{n.Value}
		return nil
	}
	var several []string
	if err := n.Decode(&several); err != nil {
		return err
	}
	*l = several
	return nil
}

// Size is a number of bytes, such as 512KiB, 10MiB or 2GiB.
type Size int64

// UnmarshalYAML reads a number with or without a unit.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	text, shift := strings.TrimSuffix(n.Value, "B"), 0
	for i, unit := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if rest, ok := strings.CutSuffix(text, unit); ok {
			text, shift = rest, 10*(i+1)
		}
	}
	v, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || n.Kind != yaml.ScalarNode || v < 0 || v > 1<<62>>shift {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %q is not a size such as 512KiB, 10MiB or 2GiB", n.Line, n.Value)}}
	}
	*s = Size(v << shift)
	return nil
}
