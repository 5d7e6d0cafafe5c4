package edge

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"ringback.dev/internal/crash"
)

// bucket is one of an S3-compatible store, as a place for downloads.
type bucket struct {
	name   string // Under buckets.
	bucket string // At the store.
	store  *minio.Core
	client *outside
}

const (
	// partSize is how much of a download is held and sent at once. An object of more
	// becomes a multipart upload, of which a store takes so many parts.
	partSize = 8 << 20
	maxParts = 10_000
	// storeTries bounds how often one request to a store is made. After that the
	// action fails, whose own schedule has the longer waits.
	storeTries = 4
	// abortTime bounds the tidying up after an upload that failed.
	abortTime = 5 * time.Second
	// sumSuffix names the object or file with a download's checksum.
	sumSuffix = ".sha256"
)

// lookups are the values of path_style.
var lookups = map[string]minio.BucketLookupType{"": minio.BucketLookupAuto, "auto": minio.BucketLookupAuto, "true": minio.BucketLookupPath, "false": minio.BucketLookupDNS}

func (f *file) buckets(s *setup, common *outside) map[string]*bucket {
	found := make(map[string]*bucket)
	for _, name := range slices.Sorted(maps.Keys(f.Buckets)) {
		c, key := f.Buckets[name], "buckets."+name
		b := &bucket{name: name, bucket: c.Bucket, client: f.other(s, key, c.Egress, common)}
		found[name] = b
		before := len(f.problems)
		f.address(key+".url", c.URL, b.client)
		u, err := url.Parse(c.URL)
		if err == nil && (strings.Trim(u.Path, "/") != "" || u.RawQuery != "") {
			f.at(key+".url", "it is the store's address alone, such as https://s3.eu-central-1.amazonaws.com; the bucket's name belongs into bucket")
		}
		if c.Bucket == "" {
			f.at(key+".bucket", "it is required: the bucket's name at the store")
		} else if s3utils.CheckValidBucketName(c.Bucket) != nil {
			f.at(key+".bucket", "%q is not the name of a bucket", c.Bucket)
		}
		id := f.secret(key+".access_key_id", c.AccessKeyIDEnv, c.AccessKeyIDFile)
		secret := f.secret(key+".secret_access_key", c.SecretAccessKeyEnv, c.SecretAccessKeyFile)
		token := f.secret(key+".session_token", c.SessionTokenEnv, c.SessionTokenFile)
		if len(f.problems) == before && (id == "" || secret == "") {
			f.at(key, "it has no access key; give access_key_id_env and secret_access_key_env, or _file")
		}
		lookup, known := lookups[c.PathStyle]
		if !known {
			f.at(key+".path_style", "%q is none of auto, true, false", c.PathStyle)
		}
		if len(f.problems) > before {
			continue
		}
		region := c.Region
		if region == "" {
			region = s3utils.GetRegionFromURL(*u)
		}
		if region == "" {
			region = "us-east-1" // Without one the library would ask the store.
		}
		b.store, err = minio.NewCore(u.Host, &minio.Options{
			Creds: credentials.NewStaticV4(id, secret, token), Secure: u.Scheme == "https", Region: region,
			BucketLookup: lookup, Transport: b.client.Transport, MaxRetries: storeTries,
		})
		if err != nil {
			f.at(key+".url", "it is not the address of a store, such as https://s3.eu-central-1.amazonaws.com")
		}
	}
	return found
}

func (b *bucket) path(name string) string { return "s3://" + b.bucket + "/" + name }

// keep sends a download to the store as it comes, one part at a time. The object is
// there when the store has all of it, and replaces the one of an earlier attempt.
func (b *bucket) keep(ctx context.Context, from *incoming, key, _ string) error {
	size := int64(partSize)
	if from.size >= 0 {
		size = min(size, from.size+1) // One more, so that its end is seen.
	}
	part := make([]byte, size)
	n, err := fill(from, part)
	switch err {
	case nil:
		return b.inParts(ctx, from, key, part)
	case io.EOF:
		if err := b.putSum(ctx, from, key); err != nil {
			return err
		}
		return b.put(ctx, key, from.kind, part[:n])
	}
	return err
}

// fill reads until a buffer is full. The error is io.EOF if it ended before, and only
// then: a download that breaks off has another.
func fill(from io.Reader, to []byte) (n int, err error) {
	for n < len(to) && err == nil {
		var more int
		more, err = from.Read(to[n:])
		n += more
	}
	return n, err
}

// inParts makes an object of a first part and what follows (multipart upload).
// Until it is completed nobody sees it.
func (b *bucket) inParts(ctx context.Context, from *incoming, key string, part []byte) (err error) {
	id, err := b.store.NewMultipartUpload(ctx, b.bucket, key, minio.PutObjectOptions{ContentType: from.kind})
	if err != nil {
		return b.refusal(err)
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
			defer cancel()
			_ = b.store.AbortMultipartUpload(ctx, b.bucket, key, id) // What stays is removed by a rule of the bucket.
		}
	}()
	var parts []minio.CompletePart
	var end error
	for n := len(part); n > 0; {
		sha, md := sums(part[:n])
		p, err := b.store.PutObjectPart(ctx, b.bucket, key, id, len(parts)+1, bytes.NewReader(part[:n]), int64(n),
			minio.PutObjectPartOptions{Md5Base64: md, Sha256Hex: sha, DisableContentSha256: true})
		if err != nil {
			return b.refusal(err)
		}
		parts = append(parts, minio.CompletePart{PartNumber: p.PartNumber, ETag: p.ETag})
		crash.At(crash.EdgePartSent)
		if end != nil {
			break
		}
		if n, end = fill(from, part); end != nil && end != io.EOF {
			return end
		}
	}
	if err := b.putSum(ctx, from, key); err != nil {
		return err
	}
	crash.At(crash.EdgeSumSent)
	if _, err := b.store.CompleteMultipartUpload(ctx, b.bucket, key, id, parts, minio.PutObjectOptions{}); err != nil {
		return b.refusal(err)
	}
	return nil
}

// put makes an object at once.
func (b *bucket) put(ctx context.Context, key, kind string, content []byte) error {
	sha, md := sums(content)
	_, err := b.store.PutObject(ctx, b.bucket, key, bytes.NewReader(content), int64(len(content)), md, sha,
		minio.PutObjectOptions{ContentType: kind, DisableContentSha256: true})
	if err != nil {
		return b.refusal(err)
	}
	return nil
}

// putSum puts the checksum of a download, which has ended, beside the object that is
// about to be there.
func (b *bucket) putSum(ctx context.Context, from *incoming, key string) error {
	return b.put(ctx, key+sumSuffix, "text/plain", from.sumLine(path.Base(key)))
}

// sums are what a store compares with what it got: the SHA-256, which the signature
// covers, and for those that don't look at that, the MD5. (The option
// DisableContentSha256 keeps the library from a signature of each chunk instead.)
func sums(content []byte) (sha256Hex, md5Base64 string) {
	sha, md := sha256.Sum256(content), md5.Sum(content)
	return hex.EncodeToString(sha[:]), base64.StdEncoding.EncodeToString(md[:])
}

// refusal says why a store did not take something. It holds neither its address nor
// anything of a signature.
func (b *bucket) refusal(err error) error {
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		r := unreached(err, b.client.key)
		if strings.Contains(r.err, "://") {
			r.err = "the connection was closed" // The library puts the address into that.
		}
		r.err = "bucket " + b.name + ": " + r.err
		return &refusal{r}
	}
	text := fmt.Sprintf("bucket %s: it answered %d", b.name, answer.StatusCode)
	for _, more := range []string{answer.Code, answer.Message} {
		if shown := excerpt([]byte(more)); shown != "" {
			text += ": " + shown
		}
	}
	return &refusal{failure(failed, "%s", text)}
}

// refusal is an error that knows its reason.
type refusal struct{ result }

func (r *refusal) Error() string { return r.err }
