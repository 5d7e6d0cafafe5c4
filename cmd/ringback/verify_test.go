package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerifyVectors: the command says of the published vectors what the library says.
func TestVerifyVectors(t *testing.T) {
	data, err := os.ReadFile("../../webhook/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []struct {
			Name, ID, Timestamp, Body, Signature, Issuer, Error string
			Secrets, Audience                                   []string
			PublicKeys                                          []string `json:"public_keys"`
			JWKS                                                json.RawMessage
			Now                                                 int64
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, v := range file.Vectors {
		if strings.ContainsAny(v.ID+v.Timestamp+v.Signature, "\r\n") {
			continue // They can't be given on a command line.
		}
		args := []string{"verify", "--at", fmt.Sprint(v.Now), "-H", "webhook-id: " + v.ID, "-H", "webhook-timestamp: " + v.Timestamp, "-H", "webhook-signature: " + v.Signature}
		for _, s := range v.Secrets {
			args = append(args, "--secret", s)
		}
		for _, k := range v.PublicKeys {
			args = append(args, "--public-key", k)
		}
		for _, a := range v.Audience {
			args = append(args, "--audience", a)
		}
		if v.Issuer != "" {
			args = append(args, "--issuer", v.Issuer)
		}
		if v.JWKS != nil {
			name := filepath.Join(t.TempDir(), "jwks.json")
			if err := os.WriteFile(name, v.JWKS, 0o600); err != nil {
				t.Fatal(err)
			}
			args = append(args, "--jwks", name)
		}
		var out, errs strings.Builder
		code := run(args, strings.NewReader(v.Body), &out, &errs)
		if want := 1; (v.Error == "" && code != 0) || (v.Error != "" && code != want) || errs.Len() > 0 {
			t.Errorf("%s: exit code %d: %s%s", v.Name, code, out.String(), errs.String())
		}
		ran++
	}
	if ran < 60 {
		t.Errorf("only %d vectors ran", ran)
	}
}
