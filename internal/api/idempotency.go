package api

import (
	"crypto/sha256"
	"errors"

	"ringback.dev"
)

// maxIdempotencyKey bounds the header Idempotency-Key, in bytes.
const maxIdempotencyKey = 255

// idempotency reads the header Idempotency-Key, by which a client makes a repeated
// creation harmless; nil if there is none. earlier is the job that was created
// with the key before. The same key with another request is refused, as Stripe
// does.
func (a *api) idempotency(c *call, body []byte) (mark *ringback.Idempotency, earlier ringback.ID, err error) {
	key := c.Header.Get("Idempotency-Key")
	if key == "" {
		return nil, "", nil
	}
	if len(key) > maxIdempotencyKey {
		return nil, "", invalid("Idempotency-Key: it has more than %d bytes", maxIdempotencyKey)
	}
	h := sha256.New()
	h.Write([]byte(c.URL.Path + "\n"))
	h.Write(body)
	mark = &ringback.Idempotency{Key: key, Fingerprint: h.Sum(nil)}
	earlier, err = a.createdBy(c, mark)
	return mark, earlier, err
}

// createdBy finds the job that was created with a key; empty if there is none.
func (a *api) createdBy(c *call, mark *ringback.Idempotency) (ringback.ID, error) {
	job, fingerprint, err := a.Store.JobByKey(c.Context(), c.project, mark.Key)
	switch {
	case errors.Is(err, ringback.NotFound):
		return "", nil
	case err != nil:
		return "", err
	case string(fingerprint) != string(mark.Fingerprint):
		return "", invalid("Idempotency-Key: %q was used for another request; use a new key", mark.Key)
	}
	return job, nil
}

// once creates a job unless another request with its key did so meanwhile; then it
// returns that one's.
func (a *api) once(c *call, mark *ringback.Idempotency, create func() error) (earlier ringback.ID, err error) {
	err = create()
	if mark == nil || !errors.Is(err, ringback.AlreadyExists) {
		return "", err
	}
	earlier, e := a.createdBy(c, mark)
	if e != nil || earlier == "" {
		return "", errors.Join(e, err)
	}
	return earlier, nil
}
