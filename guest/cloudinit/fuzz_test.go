package cloudinit

import (
	"bytes"
	"slices"
	"testing"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// FuzzSeed: what a manifest says reaches cloud-init as the same values and as
// nothing else, or is refused.
func FuzzSeed(f *testing.F) {
	f.Add("id-1", "web", "alice", "ssh-ed25519 AAAA a@b", "52:54:00:00:00:01")
	f.Add("null", "1e3", "a\nruncmd: [reboot]", "x\"\\\x1b", "\"}")
	f.Fuzz(func(t *testing.T, id, host, user, key, mac string) {
		d := Data{InstanceID: id, Hostname: host, User: user, SSHAuthorizedKeys: []string{key}, MACAddress: mac}
		if err := Write(&bytes.Buffer{}, d); err != nil || !utf8.ValidString(id+host+user+key+mac) {
			return // the API takes only UTF-8
		}
		meta, err := metaData(d)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := yaml.Unmarshal([]byte(meta), &m); err != nil {
			t.Fatalf("%v:\n%s", err, meta)
		}
		keys, _ := m["public-keys"].([]any)
		if id != "" && m["instance-id"] != id || host != "" && m["local-hostname"] != host || len(m) > 3 || len(keys) != 1 || keys[0] != key {
			t.Fatalf("%+v became %v", d, m)
		}
		vendor, err := vendorData(d)
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := yaml.Unmarshal([]byte(vendor), &v); err != nil {
			t.Fatalf("%v:\n%s", err, vendor)
		}
		for k := range v {
			if !slices.Contains([]string{"disable_root", "ssh_deletekeys", "bootcmd", "users"}, k) {
				t.Fatalf("%+v makes cloud-init do %q", d, k)
			}
		}
		network, err := networkConfig(d)
		if err != nil {
			t.Fatal(err)
		}
		var n map[string]any
		if err := yaml.Unmarshal([]byte(network), &n); err != nil || len(n) != 2 {
			t.Fatalf("%v:\n%s", err, network)
		}
	})
}
