package edge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/expr-lang/expr/vm"

	"ringback.dev/internal/crash"
	"ringback.dev/internal/egress"
)

// download is a fetch action.
type download struct {
	url    *vm.Program // Nil for the usual members of an event.
	source string
	server *server // Nil if there is none.
	to     place
	file   *template
	max    int64
	client *outside
}

// place is where downloads go. Who finds a name there finds the whole of it, with
// its checksum beside it.
type place interface {
	// keep reads a download to its end and keeps it under a name, instead of what has
	// that name already. unique names the event and the action.
	keep(ctx context.Context, from *incoming, name, unique string) error
	// path is a name with the place, for people.
	path(name string) string
}

func (k *kit) fetch(key string, c *Fetch) doer {
	d := &download{to: folder(c.Folder), max: int64(c.MaxBytes), source: c.URL, client: k.other(k.setup, key, c.Egress, k.common)}
	if d.max == 0 {
		d.max = 2 << 30
	}
	if c.URL != "" {
		var err error
		if d.url, err = compile(c.URL); err != nil {
			k.at(key+".url", "%v", err)
		}
	}
	if c.Server != "" {
		if d.server = k.servers[c.Server]; d.server == nil {
			k.at(key+".server", "%q is not among servers; add it there, with url and api_key_env", c.Server)
		}
	}
	switch {
	case (c.Folder == "") == (c.Bucket == ""):
		k.at(key, "give exactly one of folder and bucket: where the files go")
	case c.Bucket != "":
		b := k.stores[c.Bucket]
		if b == nil {
			k.at(key+".bucket", "%q is not among buckets; add it there, with url, bucket and access_key_id_env", c.Bucket)
			break
		}
		d.to = b
		if d.max > partSize*maxParts {
			k.at(key+".max_bytes", "at most 78GiB go into a bucket")
		}
	default:
		if info, err := os.Stat(c.Folder); err != nil || !info.IsDir() {
			k.at(key+".folder", "%s is not a folder; make it", c.Folder)
		}
	}
	file := c.File
	if file == "" {
		file = "{{ id }}"
	}
	d.file = k.text(key+".file", file)
	return d
}

func (d *download) String() string {
	what := d.source
	if what == "" {
		what = "the result"
	}
	return "download " + what + " to " + d.to.path(d.file.source)
}

// address finds where the result is. The client is the server's own if it is there.
func (d *download) address(e *Event) (*url.URL, error) {
	var candidates []any
	data, _ := e.env().Data.(map[string]any)
	if d.url != nil {
		v, err := eval(d.url, e)
		if err != nil {
			return nil, fmt.Errorf("url: %w", err)
		}
		candidates = append(candidates, v)
	} else {
		candidates = append(candidates, data["output_file_uri"], data["video_uri"])
	}
	for _, c := range candidates {
		text, ok := c.(string)
		if !ok || !strings.HasPrefix(text, "https://") && !strings.HasPrefix(text, "http://") {
			continue // Among them gs://, which needs an account.
		}
		u, err := url.Parse(text)
		if err != nil {
			return nil, errors.New("url: the address can't be read")
		}
		return u, nil
	}
	if d.url != nil {
		return nil, errors.New("url: it is no http or https address")
	}
	if name, ok := data["file_name"].(string); ok && d.server != nil && strings.HasPrefix(name, "files/") && path.Clean(name) == name {
		u := *d.server.base
		u.Path += "/v1beta/" + name + ":download"
		u.RawQuery = "alt=media"
		return &u, nil
	}
	if _, ok := data["file_name"].(string); ok && d.server == nil {
		return nil, errors.New("the event points to no http address; its file_name could be had from a server, which fetch.server would name")
	}
	return nil, errors.New("the event points to no result")
}

// fileName is the file's name in its place. Nothing of an event leads out of that.
func (d *download) fileName(e *Event) (string, error) {
	name, err := d.file.render(e, func(value string) string {
		value = strings.Map(func(r rune) rune {
			if r < 0x20 || r == 0x7f || strings.ContainsRune(`/\:*?"<>|`, r) {
				return '_'
			}
			return r
		}, value)
		if strings.Trim(value, ".") == "" {
			return "_"
		}
		return value
	})
	clean := path.Clean(name)
	if err == nil && (!filepath.IsLocal(clean) || strings.ContainsRune(clean, 0) || clean == "." || strings.HasSuffix(name, "/") || len(path.Base(clean)) > 200 || len(clean) > 1000) {
		err = fmt.Errorf("%q is not the name of a file", excerpt([]byte(name)))
	}
	if err != nil {
		return "", fmt.Errorf("file: %w", err)
	}
	return clean, nil
}

func (d *download) do(ctx context.Context, t *task) result {
	address, err := d.address(t.Event)
	if err != nil {
		return unfit(err)
	}
	name, err := d.fileName(t.Event)
	if err != nil {
		return unfit(err)
	}
	resp, bad := d.get(ctx, address)
	if bad != nil {
		return *bad
	}
	defer resp.Body.Close()
	if resp.ContentLength > d.max {
		return failure(refused, "it has %d bytes, more than max_bytes", resp.ContentLength)
	}
	from := &incoming{from: resp.Body, kind: resp.Header.Get("Content-Type"), size: resp.ContentLength, max: d.max, hash: sha256.New()}
	err = d.to.keep(ctx, from, name, idempotencyKey(t))
	var known *refusal
	switch {
	case err == nil:
		return success("%s, %d bytes, sha256 %x", d.to.path(name), from.n, from.hash.Sum(nil))
	case errors.Is(err, errTooLarge):
		return failure(refused, "it has more than %d bytes (max_bytes)", d.max)
	case ctx.Err() != nil:
		return failure(timedOut, "it did not arrive in time")
	case errors.As(err, &known):
		return known.result
	}
	return failure(failed, "%v", err)
}

// maxHops bounds the redirects that are followed.
const maxHops = 5

// get asks for the result. A download may be redirected, but the API key goes to
// its server only, and every address has to be allowed.
func (d *download) get(ctx context.Context, from *url.URL) (*http.Response, *result) {
	for range maxHops {
		client := d.client
		h := http.Header{"User-Agent": {"ringback-edge"}}
		if d.server.sameHost(from) {
			client = d.server.client
			if d.server.key != "" {
				h["X-Goog-Api-Key"] = []string{d.server.key}
			}
		}
		if err := egress.CheckURI(from.String(), client.options); err != nil {
			r := failure(blocked, "the address is private or otherwise not allowed (see %s)", client.key)
			return nil, &r
		}
		resp, err := client.send(ctx, http.MethodGet, from, h, nil)
		if err != nil {
			r := unreached(err, client.key)
			return nil, &r
		}
		if resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		answer, err := egress.ReadBounded(resp, answerLimit)
		if err != nil {
			answer = nil // The status says enough.
		}
		to, err := from.Parse(resp.Header.Get("Location"))
		if resp.StatusCode/100 != 3 || resp.Header.Get("Location") == "" || err != nil {
			r := status(resp, answer, time.Now(), http.StatusGone)
			return nil, &r
		}
		from = to
	}
	r := failure(failed, "it is redirected more than %d times", maxHops)
	return nil, &r
}

var errTooLarge = errors.New("the file is too large")

// incoming is a download as it is read. It ends with an error rather than have more
// than max bytes, and counts and sums up what it had.
type incoming struct {
	from io.Reader
	kind string // Its Content-Type; may be empty.
	size int64  // What it is said to have, -1 if that is not known.
	max  int64
	n    int64
	hash hash.Hash // SHA-256.
}

func (i *incoming) Read(p []byte) (int, error) {
	n, err := i.from.Read(p)
	i.n += int64(n)
	i.hash.Write(p[:n])
	if i.n > i.max {
		return n, errTooLarge
	}
	return n, err
}

// sumLine is the checksum as sha256sum -c reads it.
func (i *incoming) sumLine(name string) []byte {
	return fmt.Appendf(nil, "%x  %s\n", i.hash.Sum(nil), name)
}

// folder is a place for downloads.
type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

// keep streams a download to a file: synced under another name, its checksum beside
// it, then renamed.
func (f folder) keep(_ context.Context, from *incoming, name, unique string) (err error) {
	root, err := os.OpenRoot(string(f))
	if err != nil {
		return err
	}
	defer root.Close()
	dir := path.Dir(name)
	if dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	part := path.Join(dir, "."+unique+".part")
	defer func() {
		if err != nil {
			_ = root.Remove(part) // The next attempt begins anew.
		}
	}()
	if err := write(root, part, from); err != nil {
		return err
	}
	beside := part + sumSuffix
	err = write(root, beside, bytes.NewReader(from.sumLine(path.Base(name))))
	if err == nil {
		err = root.Rename(beside, name+sumSuffix)
	}
	if err == nil {
		err = root.Rename(part, name)
	}
	if err != nil {
		return err
	}
	crash.At(crash.EdgeRenamed)
	opened, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(opened.Sync(), opened.Close())
}

// write makes a file that is on the disk when it returns nil.
func write(root *os.Root, name string, content io.Reader) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
