package app

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ringback.dev"
	"ringback.dev/internal/keyring"
	"ringback.dev/internal/store"
	"ringback.dev/webhook"
)

// signing signs the callbacks of dynamic webhooks with the server's own keys, and
// looks after these. The keys rest in the store; what they may do when is package
// keyring's to say.
type signing struct {
	store  store.Store
	secret *keyring.Keyring
	issuer string
	maxAge time.Duration
	now    func() time.Time

	changing sync.Mutex // Held while the keys are changed.
	mu       sync.Mutex
	opened   map[string]openKey // The latest that signed, by algorithm.
}

// openKey is a key that is ready to sign: a *webhook.TokenKey or a
// webhook.SigningKey.
type openKey struct {
	kid string
	key any
}

// overlap is how long a key stays published after it has signed for the last
// time: longer than a token's life, a receiver's tolerance and its cache together.
const overlap = time.Hour

// inUse are the algorithms of keys that some project's callbacks are signed with.
// Only their keys are published: receivers written for one kind may choke on the
// other.
func (s *signing) inUse(ctx context.Context) ([]string, error) {
	projects, err := s.store.Projects(ctx)
	if err != nil {
		return nil, err
	}
	var tokens, keys bool
	for _, p := range projects {
		tokens = tokens || p.DynamicSignature == ringback.JWT
		keys = keys || p.DynamicSignature == ringback.V1a
	}
	var in []string
	if tokens {
		in = append(in, ringback.RS256)
	}
	if keys {
		in = append(in, ringback.EdDSA)
	}
	return in, nil
}

// change has plan work on all keys of an algorithm and stores what it changed.
func (s *signing) change(ctx context.Context, algorithm, action string, by store.By,
	plan func(keys []ringback.SigningKey, fresh func() (ringback.SigningKey, error)) ([]ringback.SigningKey, error)) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	all, err := s.store.SigningKeys(ctx)
	if err != nil {
		return err
	}
	var keys []ringback.SigningKey
	for _, k := range all {
		if k.Algorithm == algorithm {
			keys = append(keys, k)
		}
	}
	changed, err := plan(keys, func() (ringback.SigningKey, error) { return keyring.NewSigningKey(s.secret, algorithm, by.At) })
	if err != nil || len(changed) == 0 {
		return err
	}
	return s.store.PutSigningKeys(ctx, changed, action, by)
}

// keep makes sure that every algorithm in use has a key that signs and a next
// one, and replaces those that are old.
func (s *signing) keep(ctx context.Context, now time.Time) error {
	algorithms, err := s.inUse(ctx)
	if err != nil {
		return err
	}
	for _, a := range algorithms {
		err := s.change(ctx, a, "signing_key.keep", byServer(now), func(keys []ringback.SigningKey, fresh func() (ringback.SigningKey, error)) ([]ringback.SigningKey, error) {
			return keyring.Plan(keys, a, now, s.maxAge, overlap, fresh)
		})
		if err != nil {
			return fmt.Errorf("%s keys: %w", a, err)
		}
	}
	return nil
}

// rotate replaces the signing keys now. algorithm is empty for all in use.
func (s *signing) rotate(ctx context.Context, algorithm string, force bool, by store.By) error {
	algorithms, err := s.inUse(ctx)
	if err != nil {
		return err
	}
	if algorithm != "" {
		if algorithm != ringback.RS256 && algorithm != ringback.EdDSA {
			return &ringback.Error{Code: ringback.InvalidArgument, Message: fmt.Sprintf("algorithm: %q is neither %s nor %s", algorithm, ringback.RS256, ringback.EdDSA)}
		}
		algorithms = []string{algorithm}
	}
	for _, a := range algorithms {
		err := s.change(ctx, a, "signing_key.rotate", by, func(keys []ringback.SigningKey, fresh func() (ringback.SigningKey, error)) ([]ringback.SigningKey, error) {
			return keyring.Rotate(keys, a, by.At, overlap, force, fresh)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// revoke takes a key out of use and out of the JWKS at once.
func (s *signing) revoke(ctx context.Context, kid string, by store.By) error {
	all, err := s.store.SigningKeys(ctx)
	if err != nil {
		return err
	}
	for _, k := range all {
		if k.ID == kid {
			return s.change(ctx, k.Algorithm, "signing_key.revoke", by, func(keys []ringback.SigningKey, fresh func() (ringback.SigningKey, error)) ([]ringback.SigningKey, error) {
				return keyring.Revoke(keys, kid, by.At, fresh)
			})
		}
	}
	return &ringback.Error{Code: ringback.NotFound, Message: fmt.Sprintf("there is no signing key %q", kid)}
}

// jwks is the body of /.well-known/jwks.json.
func (s *signing) jwks() []byte {
	ctx := context.Background()
	keys, err := s.store.SigningKeys(ctx)
	var in []string
	if err == nil {
		in, err = s.inUse(ctx)
	}
	if err != nil {
		return []byte(`{"keys":[]}`)
	}
	return keyring.JWKS(keys, in, s.now())
}

// Sign implements deliver.Signer. at dates the signature; which key signs is by
// the server's clock.
func (s *signing) Sign(scheme ringback.Scheme, id string, at time.Time, body []byte, audience []string) (string, error) {
	algorithm := ringback.RS256
	if scheme == ringback.V1a {
		algorithm = ringback.EdDSA
	}
	key, err := s.current(algorithm, s.now())
	if err != nil {
		return "", err
	}
	switch k := key.(type) {
	case *webhook.TokenKey:
		return k.Sign(id, at, body, s.issuer, audience)
	case webhook.SigningKey:
		return webhook.Sign(id, at, body, k), nil
	}
	return "", fmt.Errorf("a signing key of type %T", key)
}

// current returns the key that signs now, ready for use.
func (s *signing) current(algorithm string, now time.Time) (any, error) {
	ctx := context.Background()
	for made := false; ; made = true {
		keys, err := s.store.SigningKeys(ctx)
		if err != nil {
			return nil, err
		}
		k, ok := keyring.Current(keys, algorithm, now)
		if !ok {
			// The project changed its signature a moment ago.
			if made {
				return nil, fmt.Errorf("the server has no %s key", algorithm)
			}
			if err := s.keep(ctx, now); err != nil {
				return nil, err
			}
			continue
		}
		s.mu.Lock()
		open := s.opened[algorithm]
		s.mu.Unlock()
		if open.kid == k.ID {
			return open.key, nil
		}
		key, err := keyring.OpenSigningKey(s.secret, k)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.opened[algorithm] = openKey{k.ID, key}
		s.mu.Unlock()
		return key, nil
	}
}
