package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
)

// operator are the flags of commands for operators.
type operator struct {
	Server string `default:"http://127.0.0.1:8080" env:"RINGBACK_SERVER,GOOGLE_GEMINI_BASE_URL" placeholder:"URL" help:"Base address of the server."`
	APIKey string `name:"operator-key" required:"" env:"RINGBACK_OPERATOR_KEY" placeholder:"KEY" help:"Operator's key, printed at the server's first start."`
	JSON   bool   `name:"json" help:"Print the server's JSON."`
}

func (o *operator) client() *client { return &client{Server: o.Server, APIKey: o.APIKey, JSON: o.JSON} }

type projectsCommand struct {
	List   projectsList   `cmd:"" help:"List all projects."`
	Create projectsCreate `cmd:"" help:"Make a project with its first API key."`
	Update projectsUpdate `cmd:"" help:"Change a project."`
}

// projectAnswer is what is read of a project.
type projectAnswer struct {
	ID               string     `json:"id"`
	Name             string     `json:"name"`
	DynamicSignature string     `json:"dynamic_signature"`
	Audience         string     `json:"audience"`
	Created          string     `json:"created"`
	APIKey           *keyAnswer `json:"api_key"`
}

// keyAnswer is what is read of an API key.
type keyAnswer struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Prefix   string `json:"prefix"`
	Created  string `json:"created"`
	LastUsed string `json:"last_used"`
	Key      string `json:"key"`
}

type projectsList struct{ operator }

func (c *projectsList) Run(ctx context.Context, s *streams) error {
	if c.JSON {
		return c.client().raw(ctx, s, http.MethodGet, "projects", nil)
	}
	var list struct{ Projects []projectAnswer }
	if err := c.client().manage(ctx, http.MethodGet, "projects", nil, &list); err != nil {
		return err
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tDYNAMIC SIGNATURE\tAUDIENCE\tCREATED")
	for _, p := range list.Projects {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", p.ID, p.Name, p.DynamicSignature, p.Audience, local(p.Created))
	}
	return t.Flush()
}

// projectFlags are what can be set of a project.
type projectFlags struct {
	DynamicSignature *string `enum:"jwt,v1a" help:"How callbacks to addresses of a request are signed: jwt (as the Gemini API documents) or v1a (Ed25519)."`
	Audience         *string `help:"Name to put into tokens beside the receiver's address."`
}

func (f *projectFlags) body() map[string]any {
	q := map[string]any{}
	if f.DynamicSignature != nil {
		q["dynamic_signature"] = *f.DynamicSignature
	}
	if f.Audience != nil {
		q["audience"] = *f.Audience
	}
	return q
}

type projectsCreate struct {
	operator
	projectFlags
	Name string `arg:"" help:"Its name."`
}

func (c *projectsCreate) Run(ctx context.Context, s *streams) error {
	q := c.body()
	q["name"] = c.Name
	if c.JSON {
		return c.client().raw(ctx, s, http.MethodPost, "projects", q)
	}
	var p projectAnswer
	if err := c.client().manage(ctx, http.MethodPost, "projects", q, &p); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "made project %s\nAPI key, not shown again:\n  %s\n", p.ID, p.APIKey.Key)
	return nil
}

type projectsUpdate struct {
	operator
	projectFlags
	ID   string  `arg:"" help:"The project's id."`
	Name *string `help:"New name."`
}

func (c *projectsUpdate) Run(ctx context.Context, s *streams) error {
	q := c.body()
	if c.Name != nil {
		q["name"] = *c.Name
	}
	if len(q) == 0 {
		return errors.New("nothing to change: give --name, --dynamic-signature or --audience")
	}
	return c.client().raw(ctx, s, http.MethodPatch, "projects/"+url.PathEscape(c.ID), q)
}

type keysCommand struct {
	List         keysList         `cmd:"" help:"List a project's API keys."`
	Create       keysCreate       `cmd:"" help:"Make an API key."`
	Revoke       keysRevoke       `cmd:"" help:"Revoke an API key at once."`
	Signing      keysSigning      `cmd:"" help:"List the server's signing keys."`
	Rotate       keysRotate       `cmd:"" help:"Let the next signing key sign callbacks to addresses of requests from now on."`
	RevokeSigner keysRevokeSigner `cmd:"" name:"revoke-signing" help:"Take a signing key out of use and out of the JWKS at once."`
	RotateMaster keysRotateMaster `cmd:"" help:"Seal everything under a new master key. The server must be stopped."`
}

// ofProject are the flags of commands on a project's keys.
type ofProject struct {
	operator
	Project string `required:"" placeholder:"ID" help:"The project's id."`
}

func (o *ofProject) path() string { return "projects/" + url.PathEscape(o.Project) + "/keys" }

type keysList struct{ ofProject }

func (c *keysList) Run(ctx context.Context, s *streams) error {
	if c.JSON {
		return c.client().raw(ctx, s, http.MethodGet, c.path(), nil)
	}
	var list struct{ Keys []keyAnswer }
	if err := c.client().manage(ctx, http.MethodGet, c.path(), nil, &list); err != nil {
		return err
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tPREFIX\tCREATED\tLAST USED")
	for _, k := range list.Keys {
		used := "never"
		if k.LastUsed != "" {
			used = local(k.LastUsed)
		}
		fmt.Fprintf(t, "%s\t%s\t%s…\t%s\t%s\n", k.ID, k.Name, k.Prefix, local(k.Created), used)
	}
	return t.Flush()
}

type keysCreate struct {
	ofProject
	Name string `arg:"" help:"Name by which people know the key."`
}

func (c *keysCreate) Run(ctx context.Context, s *streams) error {
	q := map[string]string{"name": c.Name}
	if c.JSON {
		return c.client().raw(ctx, s, http.MethodPost, c.path(), q)
	}
	var k keyAnswer
	if err := c.client().manage(ctx, http.MethodPost, c.path(), q, &k); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "made key %s\nAPI key, not shown again:\n  %s\n", k.ID, k.Key)
	return nil
}

type keysRevoke struct {
	ofProject
	ID string `arg:"" help:"The key's id."`
}

func (c *keysRevoke) Run(ctx context.Context, s *streams) error {
	if err := c.client().manage(ctx, http.MethodDelete, c.path()+"/"+url.PathEscape(c.ID), nil, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "revoked %s\n", c.ID)
	return nil
}

// signingKeys are the server's signing keys.
type signingKeys struct {
	SigningKeys []struct {
		ID             string `json:"id"`
		Algorithm      string `json:"algorithm"`
		State          string `json:"state"`
		Created        string `json:"created"`
		PublishedUntil string `json:"published_until"`
	} `json:"signing_keys"`
}

func (k *signingKeys) print(s *streams) error {
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KID\tALGORITHM\tSTATE\tCREATED\tPUBLISHED UNTIL")
	for _, x := range k.SigningKeys {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", x.ID, x.Algorithm, x.State, local(x.Created), local(x.PublishedUntil))
	}
	return t.Flush()
}

// signing makes a call that is answered with the signing keys.
func (o *operator) signing(ctx context.Context, s *streams, method, path string, body any) error {
	if o.JSON {
		return o.client().raw(ctx, s, method, path, body)
	}
	var k signingKeys
	if err := o.client().manage(ctx, method, path, body, &k); err != nil {
		return err
	}
	return k.print(s)
}

type keysSigning struct{ operator }

func (c *keysSigning) Run(ctx context.Context, s *streams) error {
	return c.signing(ctx, s, http.MethodGet, "signing_keys", nil)
}

type keysRotate struct {
	operator
	Algorithm string `enum:",RS256,EdDSA" default:"" placeholder:"ALG" help:"RS256 or EdDSA; all in use if it is not given."`
	Force     bool   `help:"Also if the next key has not been published for 10 minutes yet."`
}

func (c *keysRotate) Run(ctx context.Context, s *streams) error {
	q := map[string]any{"force": c.Force}
	if c.Algorithm != "" {
		q["algorithm"] = c.Algorithm
	}
	return c.signing(ctx, s, http.MethodPost, "signing_keys:rotate", q)
}

type keysRevokeSigner struct {
	operator
	KID string `arg:"" help:"The key's kid."`
}

func (c *keysRevokeSigner) Run(ctx context.Context, s *streams) error {
	return c.signing(ctx, s, http.MethodPost, "signing_keys/"+url.PathEscape(c.KID)+":revoke", nil)
}
