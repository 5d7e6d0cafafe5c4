package deliver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"ringback.dev"
	"ringback.dev/internal/deliver"
	"ringback.dev/internal/egress"
	"ringback.dev/internal/store"
)

// TestClientCertificate: a receiver that asks for a certificate gets the
// webhook's own; without one it refuses, which is told.
func TestClientCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ringback client"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)

	shown := make(chan string, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { shown <- r.TLS.PeerCertificates[0].Subject.CommonName }))
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	trusted := x509.NewCertPool()
	trusted.AddCert(srv.Certificate())
	client := egress.Client(egress.Options{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, RootCAs: trusted})
	t.Cleanup(client.CloseIdleConnections)
	w := newWorld(t, func(c *deliver.Config) { c.Transport = client.Transport })

	e, _ := w.endpoint("hook", srv.URL)
	w.ping(e)
	if o := w.next(); o.State != ringback.DeliveryPending || o.Attempt.Status != 0 {
		t.Errorf("without a certificate: %+v", o)
	}
	set := ringback.Settings{Certificate: w.keys.Seal(string(text), store.SealEndpoint+"hook"), CertificateName: "CN=ringback client"}
	if _, err := w.st.UpdateEndpoint(t.Context(), "p", "hook", store.EndpointPatch{Settings: &set}, w.by()); err != nil {
		t.Fatal(err)
	}
	w.ping(e)
	if o := w.next(); o.State != ringback.DeliveryDelivered {
		t.Fatalf("with a certificate: %+v", o)
	}
	if name := <-shown; name != "ringback client" {
		t.Errorf("the receiver saw %q", name)
	}
	// One that can't be read is told too, and is not left out in silence.
	set.Certificate = w.keys.Seal("not PEM", store.SealEndpoint+"hook")
	if _, err := w.st.UpdateEndpoint(t.Context(), "p", "hook", store.EndpointPatch{Settings: &set}, w.by()); err != nil {
		t.Fatal(err)
	}
	w.ping(e)
	if o := w.next(); o.Attempt.Reason != "unsigned" || o.State != ringback.DeliveryPending {
		t.Errorf("with a malformed one: %+v", o)
	}
}
