package webhook_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"ringback.dev/webhook"
)

var update = flag.Bool("update", false, "write the vectors of v1a and jwt anew")

const (
	vectorID   = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTime = 1614265330
	vectorBody = `{"type":"interaction.completed","version":"v1","timestamp":"2021-02-25T15:02:10Z","data":{"id":"v1_abc","user_metadata":{"k":"é"}},"user_metadata":{"k":"é"}}`
	audience   = "https://receiver.example/hook"
	issuer     = "https://ringback.example"
)

var b64 = base64.RawURLEncoding

func rsaKey(t *testing.T, name string) *rsa.PrivateKey {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + "-rsa-DO-NOT-USE.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func seed(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func rsaJWK(kid string, k *rsa.PrivateKey) map[string]any {
	return map[string]any{"kty": "RSA", "kid": kid, "n": b64.EncodeToString(k.N.Bytes()), "e": b64.EncodeToString(big.NewInt(int64(k.E)).Bytes()), "alg": "RS256", "use": "sig"}
}

func okpJWK(kid string, k ed25519.PrivateKey) map[string]any {
	return map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64.EncodeToString(k.Public().(ed25519.PublicKey)), "kid": kid, "alg": "EdDSA", "use": "sig"}
}

func jwks(keys ...map[string]any) map[string]any { return map[string]any{"keys": keys} }

// tokenOf signs any header and claims with RS256.
func tokenOf(t *testing.T, key *rsa.PrivateKey, header, claims string) string {
	t.Helper()
	text := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(claims))
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64.EncodeToString(sig)
}

// claimsWith returns good claims, changed by name; a nil value removes one.
func claimsWith(changes map[string]any) string {
	sum := sha256.Sum256([]byte(vectorBody))
	c := map[string]any{"iss": issuer, "aud": []string{audience, "team"}, "iat": vectorTime, "exp": vectorTime + 300, "jti": vectorID, "body_sha256": hex.EncodeToString(sum[:])}
	var event map[string]any
	if json.Unmarshal([]byte(vectorBody), &event) != nil {
		panic("the body")
	}
	for k, v := range event {
		c[k] = v
	}
	for k, v := range changes {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	out, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// asymmetric makes the vectors of v1a and jwt. All keys are for tests only.
func asymmetric(t *testing.T) []vector {
	key, other, weak := rsaKey(t, "test"), rsaKey(t, "other"), rsaKey(t, "weak")
	one, two := webhook.SigningKeyOf(seed(1)), webhook.SigningKeyOf(seed(2))
	secret, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(vectorTime, 0)
	sign := func(body string, with ...webhook.Signer) string {
		return webhook.Sign(vectorID, at, []byte(body), with...)
	}
	set := jwks(rsaJWK("test", key), rsaJWK("next", other))
	base := vector{ID: vectorID, Timestamp: fmt.Sprint(vectorTime), Now: vectorTime, Body: vectorBody}
	var all []vector
	add := func(name, signature, reason string, change func(*vector)) {
		v := base
		v.Name, v.Signature, v.Error = name, signature, reason
		change(&v)
		all = append(all, v)
	}
	pinned := func(keys ...webhook.SigningKey) func(*vector) {
		return func(v *vector) {
			for _, k := range keys {
				v.PublicKeys = append(v.PublicKeys, k.Public().String())
			}
		}
	}
	published := func(set map[string]any) func(*vector) {
		return func(v *vector) { v.JWKS, v.Audience, v.Issuer = set, []string{audience}, issuer }
	}

	good := sign(vectorBody, one)
	add("v1a", good, "", pinned(one))
	add("v1a: second of two keys", good, "", pinned(two, one))
	add("v1a: both signatures of a rotation, the older known", sign(vectorBody, two, one), "", pinned(one))
	add("v1a by a published key", good, "", published(jwks(okpJWK("a", seed(2)), okpJWK("b", seed(1)))))
	add("v1a: published keys have no kid to choose by, all are tried", good, "", published(jwks(map[string]any{"kty": "OKP", "crv": "Ed25519", "x": okpJWK("", seed(1))["x"]})))
	add("v1 and v1a in one header, the secret known", sign(vectorBody, secret, one), "", func(v *vector) { v.Secrets = []string{secret.Reveal()} })
	add("v1 and v1a in one header, the key known", sign(vectorBody, secret, one), "", pinned(one))
	add("v1a: another key", good, "signature", pinned(two))
	add("v1a: no key for it", good, "no key", func(v *vector) { v.Secrets = []string{secret.Reveal()} })
	add("v1: no secret for it", sign(vectorBody, secret), "no key", pinned(one))
	add("v1a: another body", sign(strings.Replace(vectorBody, "abc", "abd", 1), one), "signature", pinned(one))
	add("v1a: truncated", good[:len(good)-8], "signature", pinned(one))
	add("v1a: url-safe base64", strings.NewReplacer("+", "-", "/", "_").Replace(sign(vectorBody, two)), "signature", pinned(two))
	add("v1a: too old", good, "timestamp", func(v *vector) { pinned(one)(v); v.Now += 301 })
	add("v1a: of the future", good, "timestamp", func(v *vector) { pinned(one)(v); v.Now -= 301 })
	add("v1a: timestamp changed", good, "signature", func(v *vector) { pinned(one)(v); v.Timestamp = fmt.Sprint(vectorTime + 1) })
	add("v1a: id changed", good, "signature", func(v *vector) { pinned(one)(v); v.ID = "msg_x" })
	others := strings.Repeat(sign(vectorBody, two)+" ", 7)
	add("v1a: the eighth signature", others+good, "", pinned(one))
	add("v1a: no more than eight signatures are tried", others+sign(vectorBody, two)+" "+good, "signature", pinned(one))
	add("v1 after many of v1a", others+others+sign(vectorBody, secret), "", func(v *vector) { pinned(one)(v); v.Secrets = []string{secret.Reveal()} })
	add("v1a as v1", "v1,"+strings.TrimPrefix(good, "v1a,"), "signature", func(v *vector) { pinned(one)(v); v.Secrets = []string{secret.Reveal()} })

	const header = `{"alg":"RS256","typ":"JWT","kid":"test"}`
	token, err := (&webhook.TokenKey{ID: "test", Key: key}).Sign(vectorID, at, []byte(vectorBody), issuer, []string{audience, "team"})
	if err != nil {
		t.Fatal(err)
	}
	jwt := func(name, reason, header, claims string) {
		add("jwt: "+name, tokenOf(t, key, header, claims), reason, published(set))
	}
	add("jwt", token, "", published(set))
	jwt("audience as a string", "", header, claimsWith(map[string]any{"aud": audience}))
	jwt("no typ", "", `{"alg":"RS256","kid":"test"}`, claimsWith(nil))
	jwt("keys in the header are not looked at", "", `{"alg":"RS256","kid":"test","jwk":{"kty":"RSA"},"jku":"https://evil.example/","x5c":["x"]}`, claimsWith(nil))
	add("jwt by the next key", tokenOf(t, other, `{"alg":"RS256","kid":"next"}`, claimsWith(nil)), "", published(set))
	add("jwt: two keys of one kid", tokenOf(t, other, header, claimsWith(nil)), "", published(jwks(rsaJWK("test", key), rsaJWK("test", other))))
	add("jwt: malformed keys beside it", token, "", published(jwks(map[string]any{"kty": "RSA", "kid": "a"}, map[string]any{"kty": "RSA", "kid": "b", "n": 7, "e": "AQAB"},
		map[string]any{"kty": "RSA", "kid": "c", "n": "AQ==", "e": "AQAB"}, map[string]any{"kty": "OKP", "crv": "Ed25519", "x": "AQ"},
		map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": 7, "x": true}, map[string]any{"kty": "EC", "crv": "P-256"}, rsaJWK("test", key))))
	add("jwt: just inside the tolerance after it expired", token, "timestamp", func(v *vector) { published(set)(v); v.Now += 599 })
	unsigned := b64.EncodeToString([]byte(`{"alg":"none","kid":"test"}`)) + "." + b64.EncodeToString([]byte(claimsWith(nil))) + "."
	add("jwt: alg none", unsigned, "token", published(set))
	mac := func() string {
		text := b64.EncodeToString([]byte(`{"alg":"HS256","kid":"test"}`)) + "." + b64.EncodeToString([]byte(claimsWith(nil)))
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		h := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		h.Write([]byte(text))
		return text + "." + b64.EncodeToString(h.Sum(nil))
	}
	add("jwt: HS256 with the public key", mac(), "token", published(set))
	jwt("alg in lower case", "token", `{"alg":"rs256","kid":"test"}`, claimsWith(nil))
	jwt("alg ES256", "token", `{"alg":"ES256","kid":"test"}`, claimsWith(nil))
	jwt("critical extension", "token", `{"alg":"RS256","kid":"test","crit":["b64"],"b64":false}`, claimsWith(nil))
	jwt("unknown kid", "unknown key", `{"alg":"RS256","kid":"nobody"}`, claimsWith(nil))
	jwt("no kid", "unknown key", `{"alg":"RS256"}`, claimsWith(nil))
	jwt("kid is a number", "token", `{"alg":"RS256","kid":7}`, claimsWith(nil))
	add("jwt: signed by another key", tokenOf(t, other, header, claimsWith(nil)), "signature", published(set))
	add("jwt: weak key", tokenOf(t, weak, `{"alg":"RS256","kid":"weak"}`, claimsWith(nil)), "unknown key", published(jwks(rsaJWK("weak", weak))))
	jwt("another audience", "audience", header, claimsWith(map[string]any{"aud": []string{"https://another.example/"}}))
	jwt("audience is a prefix", "audience", header, claimsWith(map[string]any{"aud": audience[:len(audience)-1]}))
	jwt("no audience", "audience", header, claimsWith(map[string]any{"aud": nil}))
	jwt("empty audience", "audience", header, claimsWith(map[string]any{"aud": []string{}}))
	jwt("another issuer", "token", header, claimsWith(map[string]any{"iss": "https://evil.example"}))
	jwt("expired", "timestamp", header, claimsWith(map[string]any{"iat": vectorTime - 1200, "exp": vectorTime - 301}))
	jwt("of the future", "timestamp", header, claimsWith(map[string]any{"iat": vectorTime + 301, "exp": vectorTime + 601}))
	jwt("not valid yet", "timestamp", header, claimsWith(map[string]any{"nbf": vectorTime + 301}))
	jwt("no exp", "token", header, claimsWith(map[string]any{"exp": nil}))
	jwt("exp is text", "token", header, claimsWith(map[string]any{"exp": "soon"}))
	jwt("another message's", "token", header, claimsWith(map[string]any{"jti": "msg_other"}))
	jwt("no body_sha256", "token", header, claimsWith(map[string]any{"body_sha256": nil}))
	add("jwt: another body beside it", token, "signature", func(v *vector) {
		published(set)(v)
		v.Body = strings.Replace(vectorBody, "abc", "abd", 1)
	})
	add("jwt: pretty-printed body", token, "signature", func(v *vector) {
		published(set)(v)
		var b bytes.Buffer
		if json.Indent(&b, []byte(vectorBody), "", "  ") != nil {
			t.Fatal("indent")
		}
		v.Body = b.String()
	})
	parts := strings.Split(token, ".")
	add("jwt: claims changed", parts[0]+"."+b64.EncodeToString([]byte(claimsWith(map[string]any{"data": map[string]any{"id": "x"}})))+"."+parts[2], "signature", published(set))
	add("jwt: padding", parts[0]+"."+parts[1]+"."+parts[2]+"==", "token", published(set))
	add("jwt: two parts", parts[0]+"."+parts[1], "signature", published(set))
	add("jwt: four parts", token+".x", "signature", published(set))
	add("jwt: the header is not JSON", b64.EncodeToString([]byte("RS256"))+"."+parts[1]+"."+parts[2], "token", published(set))
	jwt("something after the header", "token", header+"{}", claimsWith(nil))
	jwt("something after the claims", "token", header, claimsWith(nil)+"{}")
	add("jwt: too old by webhook-timestamp", token, "timestamp", func(v *vector) { published(set)(v); v.Now += 301 })
	add("jwt: no key set", token, "no key", func(v *vector) { v.Secrets = []string{secret.Reveal()} })
	add("jwt: no audience to compare", token, "no key", func(v *vector) { v.JWKS = set })
	add("jwt: an empty set", token, "unknown key", published(jwks()))
	add("jwt: an Ed25519 key of that kid", token, "unknown key", published(jwks(okpJWK("test", seed(1)))))
	add("jwt: a key for encryption", token, "unknown key", func(v *vector) {
		k := rsaJWK("test", key)
		k["use"] = "enc"
		published(jwks(k))(v)
	})
	return all
}

// TestAsymmetricVectors makes sure that the published vectors are those that the
// code makes; RS256 and Ed25519 sign the same text alike every time.
func TestAsymmetricVectors(t *testing.T) {
	fresh := asymmetric(t)
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Comment string            `json:"comment"`
		Vectors []json.RawMessage `json:"vectors"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "{\n  \"comment\": %s,\n  \"vectors\": [", quoted(t, file.Comment))
	written := 0
	line := func(v any) {
		if written > 0 {
			out.WriteString(",")
		}
		written++
		out.WriteString("\n    ")
		text := quoted(t, v)
		out.WriteString(text)
	}
	for _, raw := range file.Vectors {
		var v vector
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		if v.JWKS == nil && v.PublicKeys == nil && !strings.HasPrefix(v.Name, "v1a: no") && !strings.HasPrefix(v.Name, "jwt: no") && !strings.HasPrefix(v.Name, "v1 and v1a") {
			line(v)
		}
	}
	for _, v := range fresh {
		line(v)
	}
	out.WriteString("\n  ]\n}\n")
	if *update {
		if err := os.WriteFile("testdata/vectors.json", out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if out.String() != string(data) {
		t.Error("testdata/vectors.json is not what the code makes; run: go test ./webhook -run TestAsymmetricVectors -update")
	}
}

func quoted(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}
