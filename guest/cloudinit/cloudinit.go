// Package cloudinit writes the seed that a guest's cloud-init reads at boot, in
// the NoCloud form: a small read-only CD image labelled "cidata".
//
//	cidata
//	├── meta-data       instance-id, local-hostname, public-keys (YAML)
//	├── user-data       the user's own, unchanged, or an empty #cloud-config
//	├── vendor-data     ours: how users and ssh host keys are to be treated
//	└── network-config  the user's own, or DHCP on the machine's interface
//
// The same Data gives the same bytes, so a seed can be compared with the one
// that is wanted. A seed may hold secrets: it is made in memory, and whoever
// writes it to a file chooses who may read it.
package cloudinit

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// Data is what a seed says.
type Data struct {
	// InstanceID tells cloud-init that a machine is a new one.
	InstanceID string
	// Hostname of the guest.
	Hostname string
	// User that SSHAuthorizedKeys are for. Empty means the image's default.
	User string
	// SSHAuthorizedKeys in the form of an authorized_keys file's lines.
	SSHAuthorizedKeys []string
	// UserData is passed on unchanged; empty means none.
	UserData string
	// NetworkConfig is passed on unchanged; empty means DHCP on the interface
	// with MACAddress.
	NetworkConfig string
	// MACAddress of the machine's interface; empty means it has none.
	MACAddress string
}

// Write writes the seed.
func Write(w io.Writer, d Data) error {
	meta, err := metaData(d)
	if err != nil {
		return err
	}
	vendor, err := vendorData(d)
	if err != nil {
		return err
	}
	network, err := networkConfig(d)
	if err != nil {
		return err
	}
	user := d.UserData
	if user == "" {
		user = "#cloud-config\n{}\n"
	}
	return writeISO(w, "cidata", []file{
		{"meta-data", []byte(meta)},
		{"network-config", []byte(network)},
		{"user-data", []byte(user)},
		{"vendor-data", []byte(vendor)},
	})
}

// metaData is written line by line, and not by a YAML library, because small
// guests read it with sed: one key of public-keys per line. Every value is a
// quoted string, which JSON and YAML write alike, or is plain by its letters.
func metaData(d Data) (string, error) {
	var b strings.Builder
	for _, f := range []struct{ key, value string }{{"instance-id", d.InstanceID}, {"local-hostname", d.Hostname}} {
		if f.value == "" {
			continue
		}
		if strings.Trim(f.value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") != "" {
			return "", fmt.Errorf("%s %q: only letters, digits, dots, hyphens and underscores are possible", f.key, f.value)
		}
		fmt.Fprintf(&b, "%s: %s\n", f.key, plain(f.value))
	}
	if len(d.SSHAuthorizedKeys) > 0 {
		b.WriteString("public-keys:\n")
		for _, k := range d.SSHAuthorizedKeys {
			if strings.ContainsAny(k, "\r\n\x00") {
				return "", fmt.Errorf("ssh key %.20q...: it has more than one line", k)
			}
			fmt.Fprintf(&b, "  - %s\n", strconv.Quote(k))
		}
	}
	return b.String(), nil
}

// plain writes a word without quotes where YAML takes it for a string.
func plain(word string) string {
	var v any
	if err := yaml.Unmarshal([]byte(word), &v); err == nil {
		if s, ok := v.(string); ok && s == word {
			return word
		}
	}
	return strconv.Quote(word)
}

// vendorData lets the keys of meta-data work: for root, whose login cloud-init
// would disable, and for a user who is not the image's default. ssh host keys, the
// machine's ID and saved randomness that an image or a snapshot brings along are
// replaced, because all clones would share them.
func vendorData(d Data) (string, error) {
	v := map[string]any{
		"disable_root":   false,
		"ssh_deletekeys": true,
		"bootcmd":        []any{[]string{"cloud-init-per", "instance", "sandboxd-identity", "sh", "-c", ownIdentity}},
	}
	if d.User != "" && d.User != "root" && len(d.SSHAuthorizedKeys) > 0 {
		v["users"] = []any{"default", map[string]any{
			"name":                d.User,
			"ssh_authorized_keys": d.SSHAuthorizedKeys,
		}}
	}
	out, err := yaml.Marshal(v)
	return "#cloud-config\n" + string(out), err
}

// ownIdentity is run by a guest at the first boot of each instance. A machine ID is
// replaced only if it is older than this boot: an image may have none, and then the
// guest has made its own already.
const ownIdentity = `rm -f /var/lib/systemd/random-seed /var/lib/urandom/random-seed /var/lib/seedrng/seed.*
born=$(stat -c %Y /etc/machine-id 2>/dev/null) && up=$(sed -n 's/^btime //p' /proc/stat) && [ "$born" -lt "$up" ] || exit 0
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id.new && chmod 0444 /etc/machine-id.new && mv -f /etc/machine-id.new /etc/machine-id
[ -L /var/lib/dbus/machine-id ] || [ ! -e /var/lib/dbus/machine-id ] || cp /etc/machine-id /var/lib/dbus/machine-id
`

func networkConfig(d Data) (string, error) {
	if d.NetworkConfig != "" {
		return d.NetworkConfig, nil
	}
	ethernets := map[string]any{}
	if d.MACAddress != "" {
		ethernets["net0"] = map[string]any{
			"match": map[string]any{"macaddress": d.MACAddress},
			"dhcp4": true,
		}
	}
	out, err := yaml.Marshal(map[string]any{"version": 2, "ethernets": ethernets})
	return string(out), err
}
