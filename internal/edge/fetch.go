package edge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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
	folder string
	file   *template
	max    int64
	client *outside
}

func (k *kit) fetch(key string, c *Fetch) doer {
	d := &download{folder: c.Folder, max: int64(c.MaxBytes), source: c.URL, client: k.other(k.setup, key, c.Egress, k.common)}
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
	if c.Folder == "" {
		k.at(key+".folder", "it is required: where the files go")
	} else if info, err := os.Stat(c.Folder); err != nil || !info.IsDir() {
		k.at(key+".folder", "%s is not a folder; make it", c.Folder)
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
	return "download " + what + " to " + filepath.Join(d.folder, d.file.source)
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

// fileName is the file's name in the folder. Nothing of an event leads out of it.
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
	if err == nil && (!filepath.IsLocal(clean) || strings.ContainsRune(clean, 0) || clean == "." || strings.HasSuffix(name, "/") || len(path.Base(clean)) > 200) {
		err = fmt.Errorf("%q is not the name of a file", excerpt([]byte(name)))
	}
	if err != nil {
		return "", fmt.Errorf("file: %w", err)
	}
	return clean, nil
}

func (d *download) do(ctx context.Context, t *task) result {
	from, err := d.address(t.Event)
	if err != nil {
		return unfit(err)
	}
	name, err := d.fileName(t.Event)
	if err != nil {
		return unfit(err)
	}
	resp, bad := d.get(ctx, from)
	if bad != nil {
		return *bad
	}
	defer resp.Body.Close()
	if resp.ContentLength > d.max {
		return failure(refused, "it has %d bytes, more than max_bytes", resp.ContentLength)
	}
	n, sum, err := d.keep(resp.Body, name, idempotencyKey(t))
	switch {
	case err == nil:
		return success("%s, %d bytes, sha256 %s", filepath.Join(d.folder, name), n, sum)
	case errors.Is(err, errTooLarge):
		return failure(refused, "it has more than %d bytes (max_bytes)", d.max)
	case ctx.Err() != nil:
		return failure(timedOut, "it did not arrive in time")
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

// keep streams a result to a file: synced under another name, its checksum beside
// it, then renamed. Who sees the name sees the whole file.
func (d *download) keep(from io.Reader, name, unique string) (n int64, sum string, err error) {
	root, err := os.OpenRoot(d.folder)
	if err != nil {
		return 0, "", err
	}
	defer root.Close()
	dir := path.Dir(name)
	if dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return 0, "", err
		}
	}
	part := path.Join(dir, "."+unique+".part")
	defer func() {
		if err != nil {
			_ = root.Remove(part) // The next attempt begins anew.
		}
	}()
	hash := sha256.New()
	err = write(root, part, func(f io.Writer) error {
		var err error
		n, err = io.Copy(io.MultiWriter(f, hash), io.LimitReader(from, d.max+1))
		if err == nil && n > d.max {
			err = errTooLarge
		}
		return err
	})
	if err != nil {
		return n, "", err
	}
	sum = hex.EncodeToString(hash.Sum(nil))
	beside := part + ".sha256"
	err = write(root, beside, func(f io.Writer) error {
		_, err := fmt.Fprintf(f, "%s  %s\n", sum, path.Base(name)) // As sha256sum -c reads it.
		return err
	})
	if err == nil {
		err = root.Rename(beside, name+".sha256")
	}
	if err == nil {
		err = root.Rename(part, name)
	}
	if err != nil {
		return n, sum, err
	}
	crash.At(crash.EdgeRenamed)
	folder, err := root.Open(dir)
	if err != nil {
		return n, sum, err
	}
	return n, sum, errors.Join(folder.Sync(), folder.Close())
}

// write makes a file that is on the disk when it returns nil.
func write(root *os.Root, name string, fill func(io.Writer) error) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
