package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// webCmd serves a folder on the loopback until the script ends, as $WEB, with a
// file SHA256SUMS of what is in it:
//
//	web DIR
func webCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: web DIR")
	}
	dir := ts.MkAbs(args[0])
	entries, err := os.ReadDir(dir)
	ts.Check(err)
	var sums bytes.Buffer
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
			fmt.Fprintf(&sums, "%s  %s\n", hexOf(b), e.Name())
		}
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "SHA256SUMS"), sums.Bytes(), 0o644))
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	ts.Defer(server.Close)
	ts.Setenv("WEB", server.URL)
}

func hexOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// artifactCmd writes an OCI layout whose artifact of a tag is a disk:
//
//	artifact FILE DIR TAG
func artifactCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: artifact FILE DIR TAG")
	}
	dir := ts.MkAbs(args[1])
	blobs := filepath.Join(dir, "blobs", "sha256")
	ts.Check(os.MkdirAll(blobs, 0o755))
	put := func(b []byte) string {
		ts.Check(os.WriteFile(filepath.Join(blobs, hexOf(b)), b, 0o644))
		return fmt.Sprintf(`"digest":"sha256:%s","size":%d`, hexOf(b), len(b))
	}
	disk, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.sandboxd.image.v1",
"config":{"mediaType":"application/vnd.oci.empty.v1+json",%s},"layers":[{"mediaType":"application/vnd.sandboxd.disk.v1.qcow2",%s}]}`, put([]byte("{}")), put(disk))
	index := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"annotations":{"org.opencontainers.image.ref.name":%q}}]}`,
		put(manifest), args[2])
	ts.Check(os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}

// ovaCmd packs a disk as an OVA:
//
//	ova FILE OVA
func ovaCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: ova FILE OVA")
	}
	disk, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range []struct {
		name    string
		content []byte
	}{
		{"machine.ovf", []byte(`<Envelope><References><File id="f" href="disk"/></References><DiskSection><Disk fileRef="f"/></DiskSection></Envelope>`)},
		{"disk", disk},
	} {
		ts.Check(w.WriteHeader(&tar.Header{Name: m.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(m.content))}))
		_, err := w.Write(m.content)
		ts.Check(err)
	}
	ts.Check(w.Close())
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b.Bytes(), 0o644))
}
