package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServersThatAreNotTrusted: whoever can be in the place of the API server could have
// every machine removed.
func TestServersThatAreNotTrusted(t *testing.T) {
	for name, c := range map[string]struct{ cluster, says string }{
		"TLS":                    {`{server: "https://k8s.example.org:6443"}`, ""},
		"loopback":               {`{server: "http://127.0.0.1:8080"}`, ""},
		"no TLS":                 {`{server: "http://10.0.0.1:8080"}`, "without TLS"},
		"no TLS, by name":        {`{server: "http://localhost.example.org"}`, "without TLS"},
		"not verified":           {`{server: "https://10.0.0.1", insecure-skip-tls-verify: true}`, "whoever answers"},
		"no server":              {`{server: ""}`, "cannot be used"},
		"an authority not there": {`{server: "https://10.0.0.1", certificate-authority: /nosuch.crt}`, "cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "kubeconfig")
			content := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: %s}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: secret}}]\ncurrent-context: c\n", c.cluster)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			config, err := Connect(path, "sandboxd/test")
			switch {
			case c.says == "" && (err != nil || config.BearerToken != "secret" && strings.HasPrefix(config.Host, "https:")):
				t.Errorf("got %v", err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path)):
				t.Errorf("got %v, want %q", err, c.says)
			case err != nil && (strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret")):
				t.Errorf("not one sentence: %v", err)
			}
		})
	}
	if _, err := Connect("/nosuch", ""); err == nil || !strings.Contains(err.Error(), "/nosuch cannot be read") {
		t.Errorf("got %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "") // wherever this test runs
	if _, err := Connect(InCluster, ""); err == nil || !strings.Contains(err.Error(), "does not run in a Pod") {
		t.Errorf("got %v", err)
	}
}
