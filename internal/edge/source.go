package edge

import (
	"net/netip"

	"ringback.dev/webhook"
)

// source is who may send to a path.
type source struct {
	name     string
	verifier *webhook.Verifier
	maxBody  int64
	allow    []netip.Prefix
}
