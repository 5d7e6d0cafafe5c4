package work

import (
	"bytes"
	"os"
	"testing"
	"time"
)

func FuzzMP4Duration(f *testing.F) {
	for _, name := range []string{"landscape", "portrait"} {
		data, err := os.ReadFile("../backend/emulator/videos/" + name + ".mp4")
		if err != nil {
			f.Fatal(err)
		}
		if d, err := mp4Duration(bytes.NewReader(data), int64(len(data))); d != 4*time.Second || err != nil {
			f.Errorf("%s: %s, %v", name, d, err)
		}
		f.Add(data)
	}
	f.Add([]byte("\x00\x00\x00\x01moov\x00\x00\x00\x00\x00\x00\x00\x38\x00\x00\x00\x28mvhd\x01\x00\x00\x00................\x00\x00\x03\xe8\x00\x00\x00\x00\x00\x00\x03\xe8"))
	f.Add([]byte("\x00\x00\x00\x00moov\x00\x00\x00\x00mvhd\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := mp4Duration(bytes.NewReader(data), int64(len(data)))
		if d < 0 || err != nil && d != 0 {
			t.Errorf("%s, %v", d, err)
		}
	})
}
