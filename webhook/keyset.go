package webhook

import (
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxKeySet  = 1 << 20
	maxKeys    = 100
	minRSABits = 2048
	maxRSABits = 8192
	// A fetched set is used for as long as the sender's Cache-Control says, within
	// minAge and maxAge, or defaultAge. On an unknown kid it is fetched anew at most
	// once in refreshEvery. When it can't be fetched the last one is used up to
	// staleAge.
	defaultAge   = 5 * time.Minute
	minAge       = time.Minute
	maxAge       = time.Hour
	refreshEvery = 30 * time.Second
	staleAge     = 24 * time.Hour
	fetchTimeout = 10 * time.Second
)

// KeySet is a sender's published keys (a JWKS, RFC 7517): fetched from its address
// when first needed and kept for a while, or fixed. No key is ever taken from a
// message. It may be used by any number of goroutines.
type KeySet struct {
	// Client fetches the set, in 10 s at most; nil means a client of its own that
	// follows no redirect.
	Client *http.Client
	// AllowHTTP permits addresses with http to others than this machine.
	AllowHTTP bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	url string

	mu       sync.Mutex
	keys     []publicKey
	fetched  time.Time     // When keys arrived.
	until    time.Time     // When they should be fetched anew.
	tried    time.Time     // When that was last tried.
	failed   error         // What came of it.
	fetching chan struct{} // Closed when the fetch under way has ended; nil if there is none.
}

// publicKey is a key of a set: one of the two.
type publicKey struct {
	id      string
	rsa     *rsa.PublicKey
	ed25519 ed25519.PublicKey
}

// NewKeySet returns the set at an address, such as
// "https://ringback.example.com/.well-known/jwks.json". Nothing is fetched yet.
func NewKeySet(url string) *KeySet { return &KeySet{url: url} }

// ParseKeySet reads a fixed set.
func ParseKeySet(data []byte) (*KeySet, error) {
	keys, err := parseKeys(data)
	if err != nil {
		return nil, err
	}
	return &KeySet{keys: keys}, nil
}

// parseKeys reads a JWKS. Keys for other uses, of other kinds or malformed are passed
// over (RFC 7517 §5); a private key is an error, since somebody has published it.
func parseKeys(data []byte) ([]publicKey, error) {
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("%w: it is not a JWKS", ErrKey)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: the set has %d keys, at most %d are allowed", ErrKey, len(set.Keys), maxKeys)
	}
	b64 := base64.RawURLEncoding
	var keys []publicKey
	for _, data := range set.Keys {
		var k struct {
			Type          string `json:"kty"`
			ID            string `json:"kid"`
			Use, Alg, Crv string
			N, E, X       string
			D, P, K       json.RawMessage // Of private and symmetric keys.
			Ops           []string        `json:"key_ops"`
		}
		malformed := json.Unmarshal(data, &k) != nil // It reads the other members all the same.
		if k.D != nil || k.P != nil || k.K != nil {
			return nil, fmt.Errorf("%w: key %q is private or symmetric", ErrKey, k.ID)
		}
		if malformed || k.Use != "" && k.Use != "sig" || len(k.Ops) > 0 && !slices.Contains(k.Ops, "verify") {
			continue
		}
		switch {
		case k.Type == "RSA" && (k.Alg == "" || k.Alg == "RS256"):
			n, err1 := b64.DecodeString(k.N)
			e, err2 := b64.DecodeString(k.E)
			key := &rsa.PublicKey{N: new(big.Int).SetBytes(n)}
			exponent := new(big.Int).SetBytes(e)
			if err1 != nil || err2 != nil || exponent.BitLen() > 31 {
				continue
			}
			key.E = int(exponent.Int64())
			if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits || key.E < 3 || key.E%2 == 0 {
				continue // Weak keys verify nothing.
			}
			keys = append(keys, publicKey{id: k.ID, rsa: key})
		case k.Type == "OKP" && k.Crv == "Ed25519" && (k.Alg == "" || k.Alg == "EdDSA" || k.Alg == "Ed25519"):
			x, err := b64.DecodeString(k.X)
			if err == nil && len(x) == ed25519.PublicKeySize {
				keys = append(keys, publicKey{id: k.ID, ed25519: x})
			}
		}
	}
	return keys, nil
}

// rsa returns the keys of an id. If there is none the set is fetched anew, unless
// that was done a moment ago.
func (s *KeySet) rsa(ctx context.Context, id string) ([]*rsa.PublicKey, error) {
	for refreshed := false; ; refreshed = true {
		keys, err := s.current(ctx, refreshed)
		if err != nil {
			return nil, err
		}
		var found []*rsa.PublicKey
		for _, k := range keys {
			if k.id == id && k.rsa != nil {
				found = append(found, k.rsa)
			}
		}
		if found != nil {
			return found, nil
		}
		if refreshed || s.url == "" {
			return nil, fmt.Errorf("%w: %q is not among the %d keys of the set", ErrUnknownKey, id, len(keys))
		}
	}
}

// ed25519 returns all keys for v1a, whose signatures name none.
func (s *KeySet) ed25519(ctx context.Context) ([]PublicKey, error) {
	keys, err := s.current(ctx, false)
	var found []PublicKey
	for _, k := range keys {
		if k.ed25519 != nil {
			found = append(found, PublicKey{k.ed25519})
		}
	}
	return found, err
}

// current returns the keys, fetched if they are too old, or if that is wanted and
// was not tried a moment ago. Those who need them wait for one fetch together.
func (s *KeySet) current(ctx context.Context, wanted bool) ([]publicKey, error) {
	if s.url == "" {
		return s.keys, nil
	}
	s.mu.Lock()
	now := s.now()
	old := !now.Before(s.until) || now.Before(s.fetched) // The second: the clock was set back.
	recent := !s.tried.IsZero() && now.Sub(s.tried) < refreshEvery && !now.Before(s.tried)
	if (!old && !wanted) || recent {
		defer s.mu.Unlock()
		return s.usable(now)
	}
	if s.fetching == nil {
		s.fetching = make(chan struct{})
		go s.refresh(context.WithoutCancel(ctx))
	}
	fetching := s.fetching
	s.mu.Unlock()
	select {
	case <-fetching:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrKeySet, context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usable(s.now())
}

// refresh fetches the set. It goes on when the caller for whom it was begun goes
// away, so that nobody causes more fetches by hanging up, and ends by itself.
func (s *KeySet) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	keys, age, err := s.fetch(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.tried, s.failed = now, err
	if err == nil {
		s.keys, s.fetched, s.until = keys, now, now.Add(age)
	}
	close(s.fetching)
	s.fetching = nil
}

// usable returns what there is. Called with mu held.
func (s *KeySet) usable(now time.Time) ([]publicKey, error) {
	if s.fetched.IsZero() || now.Sub(s.fetched) > staleAge {
		return nil, fmt.Errorf("%w: %w", ErrKeySet, s.failed)
	}
	return s.keys, nil
}

func (s *KeySet) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// fetcher is the client for sets whose user gave none.
var fetcher = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirects are not followed") },
}

// fetch gets the set and how long it may be kept.
func (s *KeySet) fetch(ctx context.Context) ([]publicKey, time.Duration, error) {
	u, err := url.Parse(s.url)
	if err != nil || u.Host == "" {
		return nil, 0, errors.New("its address is malformed")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && (u.Scheme != "http" || !s.AllowHTTP && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return nil, 0, errors.New("its address must begin with https://")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, 0, errors.New("its address is malformed")
	}
	client := s.Client
	if client == nil {
		client = fetcher
	}
	resp, err := client.Do(req)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err // Without the address, which may hold a password.
		}
		return nil, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("it was answered with %s", resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySet+1))
	if err == nil && len(data) > maxKeySet {
		err = fmt.Errorf("it is larger than %d bytes", maxKeySet)
	}
	if err != nil {
		return nil, 0, err
	}
	keys, err := parseKeys(data)
	return keys, cacheAge(resp.Header.Get("Cache-Control")), err
}

// cacheAge reads max-age (RFC 9111 §5.2.2.1).
func cacheAge(header string) time.Duration {
	for part := range strings.SplitSeq(header, ",") {
		if text, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(part)), "max-age="); ok {
			if n, err := strconv.ParseUint(strings.Trim(text, `"`), 10, 31); err == nil {
				return min(max(time.Duration(n)*time.Second, minAge), maxAge)
			}
		}
	}
	return defaultAge
}
