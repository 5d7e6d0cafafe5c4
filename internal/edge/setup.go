package edge

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"ringback.dev"
	"ringback.dev/internal/egress"
	"ringback.dev/webhook"
)

// setup is a configuration made ready. SIGHUP replaces it as a whole.
type setup struct {
	config  Config
	sources map[string]*source // By path.
	trusted []netip.Prefix     // Proxies.
	routes  []*route
	actions map[string]*action // By name, ROUTE/ACTION.
	cert    *tls.Certificate   // Nil without TLS.
	// password is that of the page, empty if there is none.
	password string

	databases map[string]*database
	clients   []*http.Client
	reconcile []*reconciler

	// The runner's, under its lock.
	users   int  // Attempts under way by it.
	retired bool // Another has taken its place.
}

// retire closes the setup, now or when the last attempt by it ends.
func (s *setup) retire() {
	s.retired = true
	if s.users == 0 {
		s.close()
	}
}

// close frees connections. It may be called more than once.
func (s *setup) close() {
	for _, c := range s.clients {
		c.CloseIdleConnections()
	}
	for _, d := range s.databases {
		d.close()
	}
}

// action is something to do about an event.
type action struct {
	name    string // ROUTE/ACTION
	kind    string
	summary string // For people: what it does, without anything secret.
	timeout time.Duration
	// delays are the waits after the first, second, … attempt that fails.
	delays []time.Duration
	window time.Duration // That they fit into.
	limit  int           // How many run at once.
	doer
}

// withDefaults sets what is zero and has a default that is not.
func (c *Config) withDefaults() {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&c.Keep, 7 * 24 * time.Hour}, {&c.KeepDead, 30 * 24 * time.Hour}, {&c.Timeout, 30 * time.Second}, {&c.Grace, 10 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	for _, d := range []struct {
		value    *string
		standard string
	}{{&c.Listen, "127.0.0.1:8090"}, {&c.Data, "./ringback-edge"}, {&c.Admin.Listen, "127.0.0.1:8091"}, {&c.Log.Level, "info"}, {&c.Log.Format, "text"}} {
		if *d.value == "" {
			*d.value = d.standard
		}
	}
	if c.MaxRunning == 0 {
		c.MaxRunning = 64
	}
	standard := ringback.DefaultBackoff()
	if c.Retry.Window == 0 {
		c.Retry.Window = standard.Window
	}
	if len(c.Retry.Schedule) == 0 {
		c.Retry.Schedule = standard.Delays
	}
}

// ready makes a file ready to run. Problems are noted in it; the setup is not to be
// used if there are any.
func (f *file) ready() *setup {
	f.withDefaults()
	s := &setup{config: f.Config, sources: make(map[string]*source), actions: make(map[string]*action), databases: make(map[string]*database)}
	f.basics(s)
	common := f.client(s, "egress", &f.Egress)
	for _, name := range slices.Sorted(maps.Keys(f.Sources)) {
		f.source(s, name, common)
	}
	if len(f.Sources) == 0 {
		f.at("sources", "there is none, so nothing can be received; see docs/edge.md for an example")
	}
	servers := f.servers(s, common)
	mail := f.mailServers(s, common)
	stores := f.buckets(s, common)
	f.openDatabases(s)
	if len(f.Routes) == 0 {
		f.at("routes", "there is none, so nothing is ever done; see docs/edge.md for an example")
	}
	k := kit{file: f, setup: s, common: common, servers: servers, mailers: mail, stores: stores}
	for i := range f.Routes {
		k.route(fmt.Sprintf("routes[%d]", i), &f.Routes[i])
	}
	k.reconcilers()
	slices.SortStableFunc(f.problems, func(a, b Problem) int { return a.Line - b.Line })
	return s
}

// basics checks what is not a list of things.
func (f *file) basics(s *setup) {
	for _, x := range []struct{ key, value, standard string }{{"listen", f.Listen, "127.0.0.1:8090"}, {"admin.listen", f.Admin.Listen, "127.0.0.1:8091"}} {
		if portOf(x.value) < 0 && (x.key == "listen" || x.value != "off") {
			f.at(x.key, "%q is not HOST:PORT, for example %s", x.value, x.standard)
		}
	}
	if f.Listen == f.Admin.Listen && portOf(f.Listen) > 0 {
		f.at("listen", "%s is admin.listen too; choose another address for one of them", f.Listen)
	}
	for _, d := range []struct {
		key              string
		value, low, high time.Duration
	}{
		{"keep", f.Keep, 24 * time.Hour, 10 * 365 * 24 * time.Hour},
		{"keep_dead", f.KeepDead, 24 * time.Hour, 10 * 365 * 24 * time.Hour},
		{"timeout", f.Timeout, time.Millisecond, 24 * time.Hour},
		{"grace", f.Grace, 0, time.Hour},
	} {
		f.between(d.key, d.value, d.low, d.high)
	}
	f.retry("retry", f.Retry)
	if f.MaxRunning < 1 || f.MaxRunning > 10_000 {
		f.at("max_running", "%d is not between 1 and 10000", f.MaxRunning)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, f.Log.Level) {
		f.at("log.level", "%q is none of debug, info, warn, error", f.Log.Level)
	}
	if f.Log.Format != "text" && f.Log.Format != "json" {
		f.at("log.format", "%q is neither text nor json", f.Log.Format)
	}
	s.trusted = f.prefixes("trusted_proxies", f.TrustedProxies)
	s.password = f.secret("admin.password", f.Admin.PasswordEnv, f.Admin.PasswordFile)
	if (f.TLS.Cert == "") != (f.TLS.Key == "") {
		f.at("tls", "cert and key belong together; give both files")
	} else if f.TLS.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.TLS.Cert, f.TLS.Key)
		if err != nil {
			f.at("tls", "the certificate can't be used: %v", err)
		}
		s.cert = &pair
	}
}

// portOf is the port of HOST:PORT, less than 0 if it is none.
func portOf(address string) int {
	_, text, err := net.SplitHostPort(address)
	n, err2 := strconv.ParseUint(text, 10, 16)
	if err != nil || err2 != nil {
		return -1
	}
	return int(n)
}

// Logger makes the logger that a configuration asks for.
func (l Log) handler(to interface{ Write([]byte) (int, error) }) slog.Handler {
	var level slog.Level
	if err := level.UnmarshalText([]byte(strings.ToUpper(l.Level))); err != nil {
		level = slog.LevelInfo
	}
	if l.Format == "json" {
		return slog.NewJSONHandler(to, &slog.HandlerOptions{Level: level})
	}
	return slog.NewTextHandler(to, &slog.HandlerOptions{Level: level})
}

func (f *file) between(key string, d, low, high time.Duration) {
	if d < low || d > high {
		f.at(key, "%s is not between %s and %s", short(d), short(low), short(high))
	}
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

func (f *file) retry(key string, r Retry) {
	if r.Window != 0 {
		f.between(key+".window", r.Window, time.Millisecond, 30*24*time.Hour)
	}
	if len(r.Schedule) > 50 {
		f.at(key+".schedule", "it has more than 50 waits; the last one repeats by itself")
	}
	for i, wait := range r.Schedule {
		f.between(fmt.Sprintf("%s.schedule[%d]", key, i), wait, time.Millisecond, 24*time.Hour)
	}
}

// prefixes reads prefixes or single addresses.
func (f *file) prefixes(key string, all []string) []netip.Prefix {
	var found []netip.Prefix
	for i, text := range all {
		p, err := netip.ParsePrefix(text)
		if addr, e := netip.ParseAddr(text); e == nil {
			p, err = addr.Prefix(addr.BitLen())
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 { // Addresses are compared in their short form.
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if err != nil || p != p.Masked() {
			f.at(fmt.Sprintf("%s[%d]", key, i), "%q is not a prefix such as 10.1.0.0/16", text)
			continue
		}
		found = append(found, p)
	}
	return found
}

// maxSecret bounds the bytes of a file with a secret.
const maxSecret = 64 << 10

// secret reads a secret of key_env or key_file; empty if neither is set. It never
// stands in a problem.
func (f *file) secret(key, env, name string) string {
	switch {
	case env != "" && name != "":
		f.at(key+"_env", "%s_file is set as well; keep one of them", lastName(key))
	case env != "":
		return f.variable(key+"_env", env, ", or use "+lastName(key)+"_file")
	case name != "":
		return f.secretFile(key+"_file", name)
	}
	return ""
}

// variable reads a secret of the environment. or is what else could be done.
func (f *file) variable(key, env, or string) string {
	secret := strings.TrimRight(os.Getenv(env), "\r\n") // As of a file.
	if secret == "" {
		f.at(key, "the variable %s is not set; export it%s", shownName(env), or)
	}
	return secret
}

// header checks the value of a header, or a part of it.
func (f *file) header(key, value string) {
	if headerValue(value) != value {
		f.at(key, "it holds a line break or another control character, which no header may")
	}
}

func (f *file) secretFile(key, name string) string {
	info, err := os.Stat(name)
	var text []byte
	switch {
	case err != nil:
	case info.Size() > maxSecret:
		err = fmt.Errorf("%s has more than %d bytes", name, maxSecret)
	default:
		text, err = os.ReadFile(name)
	}
	if err != nil {
		f.at(key, "%v", err)
		return ""
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		f.at(key, "%s is empty", name)
	}
	return secret
}

// secrets reads a list of secrets of key_env and key_file, parsed one by one.
func (f *file) secrets(key string, env, names List, parse func(text string) error) {
	read := func(key, text string) {
		if text == "" {
			return // That is a problem already.
		}
		if err := parse(text); err != nil {
			f.at(key, "%s", strings.TrimPrefix(err.Error(), "webhook: "))
		}
	}
	for i, name := range env {
		key := item(key+"_env", env, i)
		read(key, f.variable(key, name, ", or use secret_file"))
	}
	for i, name := range names {
		key := item(key+"_file", names, i)
		read(key, f.secretFile(key, name))
	}
}

// item is the key of an item of a list that may be written as a single value.
func item(key string, of List, i int) string {
	if len(of) == 1 {
		return key
	}
	return fmt.Sprintf("%s[%d]", key, i)
}

func lastName(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// shownName is the name of a variable, unless somebody put the secret itself there.
func shownName(env string) string {
	if variableName.MatchString(env) {
		return env
	}
	return "that is named here (which does not look like one: if it is the secret itself, move it there)"
}

var variableName = regexp.MustCompile(`^[A-Z_][A-Z0-9_]{0,63}$`)

// rules are the options of an egress section.
func (f *file) rules(key string, e *Egress) egress.Options {
	o := egress.Options{AllowHTTP: e.AllowHTTP, AllowPrivate: e.AllowPrivate, AllowHosts: e.AllowHosts, Ports: e.Ports,
		AllowPrefixes: f.prefixes(key+".allow_prefixes", e.AllowPrefixes)}
	proxy := e.Proxy
	if e.ProxyEnv != "" {
		proxy = f.variable(key+".proxy_env", e.ProxyEnv, "")
	}
	if proxy != "" {
		u, err := url.Parse(proxy)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
			f.at(key+".proxy", "expected an address such as http://proxy.example:3128")
		case u.User != nil && e.ProxyEnv == "":
			f.at(key+".proxy", "it holds a password; put the whole address into a variable and name it in proxy_env")
		default:
			o.Proxy = u
		}
	}
	if e.CA != "" {
		pem, err := os.ReadFile(e.CA)
		if err != nil {
			f.at(key+".ca", "%v", err)
			return o
		}
		if o.RootCAs, err = x509.SystemCertPool(); err != nil {
			o.RootCAs = x509.NewCertPool()
		}
		if !o.RootCAs.AppendCertsFromPEM(pem) {
			f.at(key+".ca", "there is no certificate in %s", e.CA)
		}
	}
	return o
}

// outside is a client with the rules it keeps.
type outside struct {
	*http.Client
	options egress.Options
	key     string // Of the rules.
}

func (f *file) client(s *setup, key string, e *Egress) *outside {
	o := f.rules(key, e)
	c := &outside{egress.Client(o), o, key}
	s.clients = append(s.clients, c.Client)
	return c
}

// other is the client of a section of its own, or the common one.
func (f *file) other(s *setup, key string, e *Egress, common *outside) *outside {
	if e == nil {
		return common
	}
	return f.client(s, key+".egress", e)
}

// address checks an address that a client is to reach. It is not shown if it may
// hold a secret.
func (f *file) address(key, raw string, c *outside) {
	err := egress.CheckURI(raw, c.options)
	if err == nil {
		return
	}
	text := strings.TrimPrefix(err.Error(), "uri: ")
	for flag, name := range map[string]string{"--allow-http-callbacks": "allow_http", "--allow-callback-hosts": "allow_hosts", "--allow-callback-prefixes": "allow_prefixes",
		"--allow-private-callbacks": "allow_private", "--callback-ports": "ports"} {
		text = strings.ReplaceAll(text, flag, c.key+"."+name)
	}
	f.at(key, "%s", strings.ReplaceAll(text, "the server's ", ""))
}

// source reads a source.
func (f *file) source(s *setup, name string, common *outside) {
	c, key := f.Sources[name], "sources."+name
	if !named(name) {
		f.at(key, "a name has letters, digits, - and _ only, at most 64")
	}
	src := &source{name: name, maxBody: int64(c.MaxBody), allow: f.prefixes(key+".allow_from", c.AllowFrom)}
	if src.maxBody == 0 {
		src.maxBody = webhook.MaxBody
	} else if src.maxBody > 64<<20 {
		f.at(key+".max_body", "at most 64MiB; events point to results")
	}
	v := &webhook.Verifier{Audience: c.Audience, Issuer: c.Issuer, AllowUnbound: c.AllowUnbound, Tolerance: c.Tolerance}
	f.secrets(key+".secret", c.SecretEnv, c.SecretFile, func(text string) error {
		secret, err := webhook.ParseSecret(text)
		v.Secrets = append(v.Secrets, secret)
		return err
	})
	for i, text := range c.PublicKeys {
		k, err := webhook.ParsePublicKey(text)
		if err != nil {
			f.at(item(key+".public_keys", c.PublicKeys, i), "%s", strings.TrimPrefix(err.Error(), "webhook: "))
		}
		v.PublicKeys = append(v.PublicKeys, k)
	}
	if c.JWKS != "" {
		f.address(key+".jwks", c.JWKS, common)
		v.Keys = webhook.NewKeySet(c.JWKS)
		client := *common.Client
		client.Timeout = 10 * time.Second
		v.Keys.Client, v.Keys.AllowHTTP = &client, common.options.AllowHTTP
	}
	if len(c.SecretEnv)+len(c.SecretFile)+len(c.PublicKeys) == 0 && c.JWKS == "" {
		f.at(key, "it has nothing to verify with; give secret_env, secret_file, public_keys or jwks")
	}
	if len(c.Audience) == 0 && (c.AllowUnbound || c.Issuer != "") {
		f.at(key, "JWTs are refused without an audience; give the address that the sender was given")
	}
	if c.Tolerance != 0 {
		f.between(key+".tolerance", c.Tolerance, time.Second, 24*time.Hour)
	}
	src.verifier = v
	switch other := s.sources[c.Path]; {
	case c.Path == "":
		f.at(key+".path", "it is required, for example /hooks/%s", name)
	case c.Path[0] != '/' || path.Clean(c.Path) != c.Path || strings.ContainsAny(c.Path, "?#%{} "):
		f.at(key+".path", "%q is not a plain path such as /hooks/%s", c.Path, name)
	case c.Path == "/healthz" || c.Path == "/readyz":
		f.at(key+".path", "%s is for health checks", c.Path)
	case other != nil:
		f.at(key+".path", "%s is the path of source %s too", c.Path, other.name)
	default:
		s.sources[c.Path] = src
	}
}

// named reports whether a text is a name: it labels metrics and stands in keys.
func named(text string) bool {
	return plainName.MatchString(text)
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// server is a Gemini-compatible server.
type server struct {
	base   *url.URL
	key    string
	client *outside
}

func (f *file) servers(s *setup, common *outside) map[string]*server {
	found := make(map[string]*server)
	for _, name := range slices.Sorted(maps.Keys(f.Servers)) {
		c, key := f.Servers[name], "servers."+name
		client := f.other(s, key, c.Egress, common)
		f.address(key+".url", c.URL, client)
		u, err := url.Parse(strings.TrimRight(c.URL, "/"))
		if err != nil || u.RawQuery != "" {
			f.at(key+".url", "it is a base address such as https://ringback.example.com, without a query")
			u = &url.URL{}
		}
		secret := f.secret(key+".api_key", c.APIKeyEnv, c.APIKeyFile)
		if c.APIKeyEnv != "" {
			f.header(key+".api_key_env", secret)
		} else {
			f.header(key+".api_key_file", secret)
		}
		found[name] = &server{u, secret, client}
	}
	return found
}

// kit is what actions are made of.
type kit struct {
	*file
	*setup
	common  *outside
	servers map[string]*server
	mailers map[string]*mailer
	stores  map[string]*bucket
}

// route reads a route and its actions.
func (k *kit) route(key string, c *Route) {
	r := &route{name: c.Name, sources: c.Source, types: c.Type, metadata: make(map[string]any)}
	switch {
	case c.Name == "":
		k.at(key+".name", "it is required: actions under way are known by it")
	case !named(c.Name):
		k.at(key+".name", "a name has letters, digits, - and _ only, at most 64")
	case slices.ContainsFunc(k.routes, func(o *route) bool { return o.name == c.Name }):
		k.at(key+".name", "there is another route %s; names must differ", c.Name)
	}
	for i, pattern := range c.Source {
		matches := false
		for name := range k.Sources {
			if ok, err := path.Match(pattern, name); ok && err == nil {
				matches = true
			}
		}
		if !matches {
			k.at(item(key+".source", c.Source, i), "%q is not among the sources: %s", pattern, strings.Join(slices.Sorted(maps.Keys(k.Sources)), ", "))
		}
	}
	for i, pattern := range c.Type {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			k.at(item(key+".type", c.Type, i), "%q is not a type or pattern such as batch.*", pattern)
		}
	}
	for name, n := range c.Metadata {
		var v any
		datesAsText(&n)
		if err := n.Decode(&v); err != nil {
			k.at(key+".metadata."+name, "it can't be read: %v", err)
		}
		r.metadata[name] = wholeNumbers(v)
	}
	if c.When != "" {
		var err error
		if r.when, err = compileCondition(c.When); err != nil {
			k.at(key+".when", "%v", err)
		}
		r.condition = c.When
	}
	if len(c.Actions) == 0 {
		k.at(key+".actions", "there is none; give at least one")
	}
	for i := range c.Actions {
		if a := k.action(fmt.Sprintf("%s.actions[%d]", key, i), c.Name, &c.Actions[i]); a != nil {
			r.actions = append(r.actions, a)
		}
	}
	k.routes = append(k.routes, r)
}

// datesAsText has what YAML takes for a date be a text, as it is in events.
func datesAsText(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!timestamp" {
		n.Tag = "!!str"
	}
	for _, c := range n.Content {
		datesAsText(c)
	}
}

// wholeNumbers brings a value from YAML into the form that events have.
func wholeNumbers(v any) any {
	text, err := asJSON(v)
	if err != nil {
		return v
	}
	same, err := decodeJSON(text)
	if err != nil {
		return v
	}
	return same
}

// action reads an action.
func (k *kit) action(key, route string, c *Action) *action {
	a := &action{timeout: k.Timeout, limit: c.MaxRunning}
	kinds := map[string]func(string) doer{}
	add := func(kind string, is bool, make func(string) doer) {
		if is {
			kinds[kind] = make
		}
	}
	add("http", c.HTTP != nil, func(key string) doer { return k.http(key, c.HTTP) })
	add("exec", c.Exec != nil, func(key string) doer { return k.exec(key, c.Exec) })
	add("sql", c.SQL != nil, func(key string) doer { return k.sql(key, c.SQL) })
	add("job", c.Job != nil, func(key string) doer { return k.job(key, c.Job) })
	add("notify", c.Notify != nil, func(key string) doer { return k.notify(key, c.Notify) })
	add("fetch", c.Fetch != nil, func(key string) doer { return k.fetch(key, c.Fetch) })
	if len(kinds) != 1 {
		k.at(key, "it has %d kinds; give exactly one of exec, fetch, http, job, notify, sql", len(kinds))
		return nil
	}
	for kind, make := range kinds {
		a.kind = kind
		if kind == "fetch" {
			a.timeout = 15 * time.Minute
		}
		before := len(k.problems)
		if a.doer = make(key + "." + kind); len(k.problems) == before {
			a.summary = a.doer.String()
		}
	}
	if c.Timeout != 0 {
		k.between(key+".timeout", c.Timeout, time.Millisecond, 24*time.Hour)
		a.timeout = c.Timeout
	}
	k.retry(key+".retry", c.Retry)
	schedule, window := k.Retry.Schedule, k.Retry.Window
	if len(c.Retry.Schedule) > 0 {
		schedule = c.Retry.Schedule
	}
	if c.Retry.Window != 0 {
		window = c.Retry.Window
	}
	a.delays, a.window = fitting(schedule, window), window
	if a.limit == 0 {
		a.limit = 8
	} else if a.limit < 1 || a.limit > 10_000 {
		k.at(key+".max_running", "%d is not between 1 and 10000", a.limit)
	}
	name := c.Name
	if name == "" {
		name = a.kind
	}
	a.name = route + "/" + name
	switch {
	case !named(name):
		k.at(key+".name", "a name has letters, digits, - and _ only, at most 64")
	case k.actions[a.name] != nil && c.Name == "":
		k.at(key+".name", "the route has another action %s; give them different names", name)
	case k.actions[a.name] != nil:
		k.at(key+".name", "the route has another action %s; names must differ", name)
	}
	k.actions[a.name] = a
	return a
}

// maxAttempts bounds the attempts of an action.
const maxAttempts = 1000

// fitting are the waits of a schedule, the last one repeated, as far as they fit
// into a window. So an edge that was down for longer than the window still makes
// all attempts.
func fitting(schedule []time.Duration, window time.Duration) []time.Duration {
	var delays []time.Duration
	for sum := time.Duration(0); len(schedule) > 0 && len(delays) < maxAttempts-1; {
		wait := schedule[min(len(delays), len(schedule)-1)]
		if sum += wait; sum > window {
			break
		}
		delays = append(delays, wait)
	}
	return delays
}

// text reads a template.
func (k *kit) text(key, source string) *template {
	t, err := parseTemplate(source)
	if err != nil {
		k.at(key, "%v", err)
		return &template{}
	}
	return t
}
