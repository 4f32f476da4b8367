package client

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"

	"sandboxd.dev/sandboxd/disk/change"
)

// FuzzResult: the last message of a command, which a broken or strange daemon may
// send, is understood or refused.
func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}`))
	f.Add([]byte(`{"status":"Success","details":{"causes":[{"reason":"ExitCode","message":"x"}]}}`))
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = resultOf(raw) })
}

// FuzzLines: the lines of a comparison are taken in any pieces, and bounded.
func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"note\":{\"message\":\"x\"}}\n{}\n"), 3)
	f.Fuzz(func(t *testing.T, said []byte, piece int) {
		w := &lineWriter{emit: func(change.Line) error { return nil }}
		piece = max(1, piece%64)
		for rest := said; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
			if _, err := w.Write(rest[:min(piece, len(rest))]); err != nil {
				return
			}
		}
		if w.rest.Len() > maxLine {
			t.Fatalf("%d bytes are kept", w.rest.Len())
		}
	})
}

// FuzzOneFile: exactly one regular file is taken.
func FuzzOneFile(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 1, Mode: 0o4755}); err != nil {
		f.Fatal(err)
	}
	_, _ = w.Write([]byte("x"))
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		_ = oneFile(bytes.NewReader(raw), func(info FileInfo, r io.Reader) error {
			if info.Size < 0 || info.Mode != info.Mode.Perm() {
				t.Fatalf("%+v", info)
			}
			_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			return err
		})
	})
}
