package keyring

import (
	"errors"
	"slices"
	"time"

	"ringback.dev"
)

// PublishAhead is how long a key must have been published before it signs by
// itself: twice as long as receivers may cache the set.
const PublishAhead = 10 * time.Minute

// published reports whether a key is in the set at now. Keys are published from
// their creation.
func published(k *ringback.SigningKey, now time.Time) bool {
	return k.PublishedUntil.IsZero() || now.Before(k.PublishedUntil)
}

// signs reports whether a key signs at now. A clock that was set back takes no
// key out of use.
func signs(k *ringback.SigningKey, now time.Time) bool {
	return !k.SignsFrom.IsZero() && (k.SignsUntil.IsZero() || now.Before(k.SignsUntil)) && k.Sealed != nil
}

// Current returns the key of an algorithm that signs at now.
func Current(keys []ringback.SigningKey, algorithm string, now time.Time) (ringback.SigningKey, bool) {
	for _, k := range keys {
		if k.Algorithm == algorithm && signs(&k, now) {
			return k, true
		}
	}
	return ringback.SigningKey{}, false
}

// Plan looks after the keys of one algorithm: it makes sure that one signs and
// that a next one is published, and lets the next one take over from one that
// signs since maxAge. Earlier keys stay published for overlap. It returns the
// keys that are new or changed.
func Plan(keys []ringback.SigningKey, algorithm string, now time.Time, maxAge, overlap time.Duration, fresh func() (ringback.SigningKey, error)) ([]ringback.SigningKey, error) {
	s := sorted(keys, now)
	if s.signing == nil {
		return s.takeOver(now, overlap, fresh)
	}
	if s.next == nil {
		k, err := fresh()
		return []ringback.SigningKey{k}, err
	}
	if now.Sub(s.signing.SignsFrom) >= maxAge && now.Sub(s.next.Created) >= PublishAhead {
		return s.takeOver(now, overlap, fresh)
	}
	return nil, nil
}

// Rotate lets the next key sign from now on. One that has not been published for
// PublishAhead is refused, since receivers may not know it yet, unless forced.
func Rotate(keys []ringback.SigningKey, algorithm string, now time.Time, overlap time.Duration, force bool, fresh func() (ringback.SigningKey, error)) ([]ringback.SigningKey, error) {
	s := sorted(keys, now)
	if s.signing != nil && !force && (s.next == nil || now.Sub(s.next.Created) < PublishAhead) {
		return nil, &ringback.Error{Code: ringback.FailedPrecondition, Message: "the next " + algorithm +
			" key has not been published for 10 minutes yet, so receivers may not know it; try again later, or force it if the present key must not sign any more"}
	}
	return s.takeOver(now, overlap, fresh)
}

// Revoke takes a key out of the set at once. What it signed is not accepted any
// more by receivers whose cache has run out. If it was the one that signs, the
// next takes over.
func Revoke(keys []ringback.SigningKey, kid string, now time.Time, fresh func() (ringback.SigningKey, error)) ([]ringback.SigningKey, error) {
	i := slices.IndexFunc(keys, func(k ringback.SigningKey) bool { return k.ID == kid })
	if i < 0 {
		return nil, errors.New("there is no such key")
	}
	revoked := keys[i]
	s := sorted(slices.Delete(slices.Clone(keys), i, i+1), now)
	var changed []ringback.SigningKey
	var err error
	switch {
	case s.signing == nil:
		changed, err = s.takeOver(now, 0, fresh)
	case s.next == nil:
		var k ringback.SigningKey
		k, err = fresh()
		changed = []ringback.SigningKey{k}
	}
	if revoked.SignsUntil.IsZero() {
		revoked.SignsUntil = now
	}
	revoked.Sealed, revoked.PublishedUntil = nil, now
	return append(changed, revoked), err
}

// parts are the keys of one algorithm by what they do.
type parts struct {
	signing, next *ringback.SigningKey
}

func sorted(keys []ringback.SigningKey, now time.Time) (p parts) {
	for i := range keys {
		k := keys[i]
		switch {
		case signs(&k, now):
			p.signing = &k
		case k.SignsFrom.IsZero() && published(&k, now) && (p.next == nil || k.Created.Before(p.next.Created)):
			p.next = &k
		}
	}
	return p
}

// takeOver lets the next key sign and makes another next one. The private half of
// the key that signed until now is dropped.
func (p parts) takeOver(now time.Time, overlap time.Duration, fresh func() (ringback.SigningKey, error)) ([]ringback.SigningKey, error) {
	var changed []ringback.SigningKey
	if old := p.signing; old != nil {
		old.SignsUntil, old.PublishedUntil, old.Sealed = now, now.Add(overlap), nil
		changed = append(changed, *old)
	}
	heir := p.next
	if heir == nil {
		k, err := fresh()
		if err != nil {
			return nil, err
		}
		heir = &k
	}
	heir.SignsFrom = now
	next, err := fresh()
	if err != nil {
		return nil, err
	}
	return append(changed, *heir, next), nil
}
