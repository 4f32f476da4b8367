package fetch

import (
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sandboxd.dev/sandboxd/providers"
)

// TestOutward: no image is read from where a cloud tells its machines secrets,
// however that place is written.
func TestOutward(t *testing.T) {
	for _, address := range []string{"169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "100.100.100.200", "224.0.0.1"} {
		if strings.HasPrefix(address, "[f") && !hasIPv6() {
			t.Logf("without IPv6 nobody gets to %s", address)
			continue
		}
		dir := filepath.Join(t.TempDir(), "d")
		_, err := Get(t.Context(), Request{Object: "image", URL: "http://" + address + "/latest", Dir: dir, MaxBytes: 100})
		if providers.KindOf(err) != providers.ErrInvalid || !strings.Contains(err.Error(), "secrets") {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1:80", "192.0.2.1:443", "[2001:db8::1]:443", "10.0.0.1:80"} {
		if err := outward("tcp", address, nil); err != nil {
			t.Errorf("%s: %v", netip.MustParseAddrPort(address), err)
		}
	}
}

// hasIPv6 tells whether the kernel has sockets of it.
func hasIPv6() bool {
	s, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = syscall.Close(s)
	}
	return err == nil
}

// TestRedirectedHome: a server elsewhere does not send the daemon to the services of
// its own host; one on it may.
func TestRedirectedHome(t *testing.T) {
	check := NewClient().CheckRedirect
	for _, tc := range []struct {
		from, to string
		refused  bool
	}{
		{"http://images.example", "http://127.0.0.1:8080/", true},
		{"http://images.example", "http://LOCALHOST./", true},
		{"http://images.example", "http://a.localhost/", true},
		{"http://images.example", "http://[::1]/", true},
		{"http://images.example", "http://[::ffff:127.0.0.1]/", true},
		{"http://images.example", "http://0.0.0.0/", true},
		{"http://images.example", "http://other.example/", false},
		{"http://127.0.0.1:1", "http://127.0.0.1:2/", false},
	} {
		from, err := url.Parse(tc.from)
		if err != nil {
			t.Fatal(err)
		}
		to, err := url.Parse(tc.to)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(&http.Request{URL: to}, []*http.Request{{URL: from}}); (err != nil) != tc.refused {
			t.Errorf("from %s to %s: %v", tc.from, tc.to, err)
		}
	}
}
