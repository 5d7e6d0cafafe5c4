package edge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"ringback.dev/internal/egress"
	"ringback.dev/internal/s3test"
)

// storeOf is a client of a store, for a test to look into it.
func storeOf(t *testing.T, address string, transport http.RoundTripper) *minio.Core {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := minio.NewCore(u.Host, &minio.Options{Creds: credentials.NewStaticV4(s3test.AccessKeyID, s3test.SecretAccessKey, ""), Region: "us-east-1",
		Transport: transport, MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// bucketed is the section of a bucket "kept" of a store.
func bucketed(address string) string {
	return `
buckets: {kept: {url: "` + address + `", bucket: results, access_key_id_env: S3_ID, secret_access_key_env: S3_SECRET}}
`
}

var storeKeys = []string{"S3_ID", s3test.AccessKeyID, "S3_SECRET", s3test.SecretAccessKey}

// download of so many bytes, none like its neighbour.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>16 ^ i>>8 ^ i)
	}
	return b
}

// objects are the keys of a bucket. The store's own begin with a dot.
func objects(t *testing.T, s *s3test.Server, bucket string) []string {
	t.Helper()
	keys := []string{}
	err := fs.WalkDir(os.DirFS(filepath.Join(s.Dir, bucket)), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && name != "." && name[0] == '.' {
			return fs.SkipDir
		}
		if err == nil && !d.IsDir() {
			keys = append(keys, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

func TestFetchToBucket(t *testing.T) {
	store := s3test.Start(t, "results")
	from := newTarget(t)
	// The path says how many bytes there are and how they come.
	from.say(func(w http.ResponseWriter, r *http.Request) {
		how, size, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		n, err := strconv.Atoi(size)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/jsonl; charset=utf-8")
		content := pattern(n)
		switch how {
		case "known":
			w.Header().Set("Content-Length", size)
		case "known-cut":
			w.Header().Set("Content-Length", strconv.Itoa(n+1))
		case "stream", "stream-cut":
			w.(http.Flusher).Flush()
		}
		_, _ = w.Write(content) // Who asked may have gone.
		if how == "stream-cut" {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	const most = 3 * partSize
	w := start(t, bucketed(store.URL)+routed(`
fetch: {bucket: kept, file: "{{ source }}/{{ data.id }}", max_bytes: `+strconv.Itoa(most)+`}
retry: {window: 1ms}
timeout: 1m`), storeKeys...)
	event := func(id, name, path string) {
		t.Helper()
		w.event(id, fmt.Sprintf(`{"type":"x","data":{"id":%q,"output_file_uri":"%s/%s"}}`, name, from.URL, path))
	}
	look := storeOf(t, store.URL, client.Transport)
	check := func(id, key string, size int) {
		t.Helper()
		w.done("r/a", id)
		content := pattern(size)
		if got := readFile(t, filepath.Join(store.Dir, "results", key)); got != string(content) {
			t.Errorf("%s has %d bytes, want %d", key, len(got), size)
		}
		line := fmt.Sprintf("%x  %s\n", sha256.Sum256(content), filepath.Base(key))
		if got := readFile(t, filepath.Join(store.Dir, "results", key+".sha256")); got != line {
			t.Errorf("the checksum of %s is %q, want %q", key, got, line)
		}
		info, err := look.StatObject(t.Context(), "results", key, minio.StatObjectOptions{})
		if err != nil || info.ContentType != "application/jsonl; charset=utf-8" || info.Size != int64(size) {
			t.Errorf("%s: got %+v, %v", key, info, err)
		}
		w.log.waitFor(fmt.Sprintf(`result="s3://results/%s, %d bytes, sha256 %.64s"`, key, size, line))
	}
	var want []string
	for i, size := range []int{0, 70_000, partSize - 1, partSize, partSize + 1, most} {
		for _, how := range []string{"known", "stream"} {
			id := fmt.Sprintf("%s_%d", how, i)
			event(id, id, fmt.Sprintf("%s/%d", how, size))
			check(id, "s/"+id, size)
			want = append(want, "s/"+id, "s/"+id+".sha256")
		}
	}
	for id, x := range map[string]struct{ path, why string }{
		"large":        {fmt.Sprintf("known/%d", most+1), fmt.Sprintf("refused: it has %d bytes, more than max_bytes", most+1)},
		"large-stream": {fmt.Sprintf("stream/%d", most+1), fmt.Sprintf("refused: it has more than %d bytes (max_bytes)", most)},
		"cut":          {"known-cut/1000", "failed: unexpected EOF"},
		"cut-stream":   {"stream-cut/1000", "failed: unexpected EOF"},
		"cut-late":     {fmt.Sprintf("known-cut/%d", 2*partSize+5), "failed: unexpected EOF"},
		"cut-at-part":  {fmt.Sprintf("stream-cut/%d", 2*partSize), "failed: unexpected EOF"},
	} {
		event(id, id, x.path)
		if why := w.dead("r/a", id); why != x.why {
			t.Errorf("%s: got %q, want %q", id, why, x.why)
		}
	}
	// What an event says stays one name below the template's own folder.
	for id, x := range map[string]struct{ name, key string }{
		"up":    {"../../up", ".._.._up"},
		"root":  {"/etc/passwd", "_etc_passwd"},
		"dots":  {"..", "_"},
		"back":  {`..\..\x`, ".._.._x"},
		"coded": {"%2e%2e%2fx?y=z&uploads", "%2e%2e%2fx_y=z&uploads"},
		"other": {"ü +~'\"<é>*", "ü +~'__é__"},
	} {
		event(id, x.name, "known/10")
		check(id, "s/"+x.key, 10)
		want = append(want, "s/"+x.key, "s/"+x.key+".sha256")
	}
	event("long", strings.Repeat("x", 300), "known/10")
	if why := w.dead("r/a", "long"); !strings.HasPrefix(why, `misfit: file: "s/xxx`) {
		t.Error(why)
	}
	// Again: the same key has the new content.
	event("again", "known_1", "known/3")
	check("again", "s/known_1", 3)

	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), objects(t, store, "results")); diff != "" {
		t.Error(diff)
	}
	left, err := look.ListMultipartUploads(t.Context(), "results", "", "", "", "", 100)
	if err != nil || len(left.Uploads) > 0 {
		t.Errorf("uploads are left: %+v, %v", left.Uploads, err)
	}
	quiet(t, w, store.URL)
}

// quiet makes sure that the log tells neither the key nor the store's address.
func quiet(t *testing.T, w *world, address string) {
	t.Helper()
	for _, secret := range []string{s3test.AccessKeyID, s3test.SecretAccessKey, "hush", "Signature=", "X-Amz-", "uploadId", address} {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log tells %s:\n%s", secret, w.log)
		}
	}
}

// TestBucketRefuses: what an operator has to mend is told and tried again.
func TestBucketRefuses(t *testing.T) {
	store := s3test.Start(t, "results")
	from := newTarget(t)
	from.say(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(pattern(len(r.URL.Path) * 1000)) })
	w := start(t, `
buckets:
  kept: {url: "`+store.URL+`", bucket: results, access_key_id_env: S3_ID, secret_access_key_env: S3_SECRET}
  wrong: {url: "`+store.URL+`", bucket: results, access_key_id_env: S3_ID, secret_access_key_env: S3_WRONG}
  missing: {url: "`+store.URL+`", bucket: no-such-bucket, access_key_id_env: S3_ID, secret_access_key_env: S3_SECRET}
  region: {url: "`+store.URL+`", region: eu-central-1, bucket: results, access_key_id_env: S3_ID, secret_access_key_env: S3_SECRET}
routes:
  - name: r
    actions:
      - {name: wrong, fetch: {bucket: wrong}}
      - {name: missing, fetch: {bucket: missing}}
      - {name: region, fetch: {bucket: region}}
  - name: later
    type: later
    actions:
      - {name: kept, fetch: {bucket: kept}, retry: {schedule: [100ms], window: 20s}}
`, append(storeKeys, "S3_WRONG", "hush/wrong")...)
	w.event("msg_1", `{"type":"x","data":{"output_file_uri":"`+from.URL+`/x"}}`)
	for action, want := range map[string]string{
		"wrong":   "failed: bucket wrong: it answered 403: SignatureDoesNotMatch: ",
		"missing": "failed: bucket missing: it answered 404: NoSuchBucket: ",
		"region":  "failed: bucket region: it answered 400: AuthorizationHeaderMalformed: ",
	} {
		if why := w.dead("r/"+action, "msg_1"); !strings.HasPrefix(why, want) {
			t.Errorf("got %q, want %q…", why, want)
		}
		if e := w.ended("r/"+action, "msg_1"); e.Attempts < 2 {
			t.Errorf("%s: it was not tried again", action)
		}
	}
	// A store that is down is tried again until it is back.
	store.Stop()
	w.event("msg_2", `{"type":"later","data":{"output_file_uri":"`+from.URL+`/x"}}`)
	w.log.waitFor(`error="bucket kept: the connection was refused"`)
	store.Restart(t)
	w.done("later/kept", "msg_2")
	if got := readFile(t, filepath.Join(store.Dir, "results", "msg_2")); got != string(pattern(2000)) {
		t.Errorf("got %d bytes", len(got))
	}
	quiet(t, w, strings.TrimPrefix(store.URL, "http://"))
}

// TestStoreThatMisbehaves: redirects are not followed, the answer that a store is busy
// is waited out, addresses that are not allowed are not reached.
func TestStoreThatMisbehaves(t *testing.T) {
	store, elsewhere := newTarget(t), newTarget(t)
	k := parse([]byte(base + bucketed(store.URL)))
	for i := 0; i < len(storeKeys); i += 2 {
		t.Setenv(storeKeys[i], storeKeys[i+1])
	}
	s := k.ready()
	defer s.close()
	common := k.client(s, "egress", &k.Egress)
	b := k.buckets(s, common)["kept"]
	try := func() result {
		err := b.keep(t.Context(), &incoming{from: strings.NewReader("content"), size: -1, max: 100, hash: sha256.New()}, "a/b", "")
		if err == nil {
			return success("")
		}
		return err.(*refusal).result
	}
	busy := 2
	store.say(func(w http.ResponseWriter, r *http.Request) {
		if busy--; busy >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
		}
	})
	if r := try(); r.reason != done {
		t.Errorf("got %+v", r)
	}
	busy = 1000
	if r := try(); r.reason != failed || r.err != "bucket kept: it answered 503: SlowDown: Please reduce your request rate." {
		t.Errorf("got %+v", r)
	}
	store.say(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+"/there", http.StatusTemporaryRedirect)
	})
	if r := try(); r.reason != failed || !strings.HasPrefix(r.err, "bucket kept: it answered 307") {
		t.Errorf("got %+v", r)
	}
	if len(elsewhere.seen) > 0 {
		t.Error("a redirect was followed")
	}
	store.say(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if r := try(); r.reason != failed || r.err != "bucket kept: the connection was closed" {
		t.Errorf("got %+v", r)
	}
	for len(store.seen) > 0 {
		<-store.seen
	}
	strict := egress.Client(egress.Options{AllowHTTP: true})
	b.store = storeOf(t, store.URL, strict.Transport)
	if r := try(); r.reason != blocked || r.err != "bucket kept: the address is private or otherwise not allowed (see egress)" {
		t.Errorf("got %+v", r)
	}
	if len(store.seen) > 0 {
		t.Error("an address that is not allowed was reached")
	}
}

// TestFill: only the end of a download ends it.
func TestFill(t *testing.T) {
	for _, x := range []struct {
		from io.Reader
		n    int
		err  error
	}{
		{strings.NewReader("abc"), 3, io.EOF},
		{strings.NewReader("abcd"), 4, nil},
		{strings.NewReader("abcde"), 4, nil},
		{io.MultiReader(strings.NewReader("ab"), broken{io.ErrUnexpectedEOF}), 2, io.ErrUnexpectedEOF},
	} {
		if n, err := fill(x.from, make([]byte, 4)); n != x.n || err != x.err {
			t.Errorf("got %d, %v, want %d, %v", n, err, x.n, x.err)
		}
	}
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// TestStoreVerifies: what is damaged on the way to the store does not become an
// object.
func TestStoreVerifies(t *testing.T) {
	store := s3test.Start(t, "results")
	b := &bucket{name: "kept", bucket: "results", client: &outside{key: "egress"}, store: storeOf(t, store.URL, damage{client.Transport})}
	for _, size := range []int{10, partSize + 1} {
		err := b.keep(t.Context(), &incoming{from: bytes.NewReader(pattern(size)), size: -1, max: 1 << 30, hash: sha256.New()}, "x", "")
		if err == nil || !strings.HasPrefix(err.Error(), "bucket kept: it answered 400: ") {
			t.Errorf("got %v", err)
		}
	}
	if got := objects(t, store, "results"); len(got) > 0 {
		t.Errorf("there are %v", got)
	}
}

// damage changes the first byte of each body with the pattern.
type damage struct{ http.RoundTripper }

func (d damage) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		body[0] ^= 1
		req = req.Clone(context.WithoutCancel(req.Context()))
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	return d.RoundTripper.RoundTrip(req)
}
