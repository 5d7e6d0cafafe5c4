package dir_test

import (
	"testing"

	"ringback.dev/internal/blob"
	"ringback.dev/internal/blob/blobtest"
	"ringback.dev/internal/blob/dir"
)

func TestContract(t *testing.T) {
	root := t.TempDir()
	blobtest.Run(t, func(t *testing.T) blob.Store {
		s, err := dir.Open(root)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
