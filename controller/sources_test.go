package controller_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/fake"
)

// TestDownloads: a server that is broken or stalls is asked again until it gives
// the file, and the image says what it waits for; what it was verified by is said
// afterwards.
func TestDownloads(t *testing.T) {
	file := append(bytes.Repeat([]byte{0}, 510), 0x55, 0xaa)
	digest := sha256.Sum256(file)
	sum := hex.EncodeToString(digest[:])
	var healed atomic.Bool
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/SHA256SUMS":
			_, _ = w.Write([]byte(sum + "  disk.raw\n"))
		case !healed.Load() && r.URL.Path == "/stalls/disk.raw":
			w.Header().Set("Content-Length", "512")
			_, _ = w.Write(file[:100])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case !healed.Load():
			w.WriteHeader(http.StatusBadGateway)
		default:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
		}
	}))
	t.Cleanup(web.Close)

	d := host(t, fake.Options{DownloadStall: 100 * time.Millisecond})
	d.start()
	images := map[string]*v1.GoldenImage{}
	for name, source := range map[string]v1.DiskSource{
		v1.ReasonDigestMatches:   {URL: web.URL + "/stalls/disk.raw", SHA256: sum},
		v1.ReasonChecksumMatches: {URL: web.URL + "/disk.raw", ChecksumURL: web.URL + "/SHA256SUMS"},
		v1.ReasonDigestRecorded:  {URL: web.URL + "/disk.raw"},
	} {
		img := goldenImage(strings.ToLower(name))
		img.Spec.Source.Disk = &source
		d.create(img)
		images[name] = img
	}
	for _, img := range images {
		until(d, img, "waiting for its server", func(i *v1.GoldenImage) bool {
			c := condition(i, v1.ConditionImported)
			return c.Status == metav1.ConditionUnknown && c.Reason == v1.ReasonUnavailable && condition(i, v1.ConditionStalled).Status == ""
		})
	}
	healed.Store(true)
	for reason, img := range images {
		until(d, img, "ready", ready)
		if c := condition(img, v1.ConditionVerified); c.Status != metav1.ConditionTrue || c.Reason != reason || img.Status.Digest != "sha256:"+sum {
			t.Errorf("verified is %+v, and the digest %s", c, img.Status.Digest)
		}
	}
}

// TestRecordedDigest: a source that has to be read again, because its image is
// gone from the host, must be what it was at first.
func TestRecordedDigest(t *testing.T) {
	var digest atomic.Value
	digest.Store(strings.Repeat("a", 64))
	d := host(t, fake.Options{Source: func(string) (fake.Source, bool) {
		return fake.Source{SHA256: digest.Load().(string)}, true
	}})
	d.start()
	img := goldenImage("golden")
	d.create(img)
	until(d, img, "ready", ready)
	ref := providers.ImageRef{UID: img.UID, Revision: img.Status.Revision}

	digest.Store(strings.Repeat("b", 64))
	must(t, d.provider().DeleteImage(t.Context(), ref))
	until(d, img, "stalled", func(i *v1.GoldenImage) bool {
		return condition(i, v1.ConditionStalled).Reason == providers.ReasonDigestMismatch &&
			condition(i, v1.ConditionVerified).Status == metav1.ConditionFalse
	})
	if said := condition(img, v1.ConditionVerified).Message; !strings.Contains(said, "spec.source.disk.sha256") || ready(img) {
		t.Errorf("it says %q", said)
	}
	if img.Status.Digest != "sha256:"+strings.Repeat("a", 64) {
		t.Errorf("the digest that was recorded is %s now", img.Status.Digest)
	}

	before := img.DeepCopy()
	img.Spec.Source.Disk.SHA256 = strings.Repeat("b", 64)
	must(t, d.client.Patch(t.Context(), img, client.MergeFrom(before)))
	until(d, img, "ready with the new one", func(i *v1.GoldenImage) bool {
		return ready(i) && i.Status.Digest == "sha256:"+strings.Repeat("b", 64)
	})
}
