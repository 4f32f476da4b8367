package unattended

import (
	"fmt"

	"sigs.k8s.io/yaml"
)

// autoinstall are the answers for Ubuntu's installer, as the user-data of its
// cloud-init. The installed system's cloud-init reads the seeds of sandboxes: the
// installer would have it look for none. For that the user, whom the installer
// leaves to that cloud-init, is made by the installer.
func (a Answers) autoinstall() (string, error) {
	in := func(script string) []string { return []string{"curtin", "in-target", "--", "sh", "-c", script} }
	user := fmt.Sprintf("id -u %[1]s >/dev/null 2>&1 || useradd -m -s /bin/bash -G sudo %[1]s; usermod -p '%[2]s' %[1]s", a.User, a.PasswordHash)
	config := map[string]any{
		"version":  1,
		"locale":   a.Locale,
		"keyboard": map[string]any{"layout": "us"},
		"timezone": "Etc/UTC",
		"ssh":      map[string]any{"install-server": true, "allow-pw": true},
		"storage":  map[string]any{"layout": map[string]any{"name": "direct"}},
		"shutdown": "poweroff",
		"late-commands": []any{
			in(user),
			in("echo 'datasource_list: [NoCloud, None]' >/etc/cloud/cloud.cfg.d/99-zz-sandboxd.cfg"),
			in("echo " + a.Hostname + " >/etc/hostname"),
		},
	}
	if len(a.Packages) > 0 {
		config["packages"] = a.Packages
	}
	if a.User == "root" { // the installer takes it for no user
		config["user-data"] = map[string]any{"disable_root": false, "hostname": a.Hostname}
	} else {
		config["identity"] = map[string]any{
			"username": a.User, "realname": a.User, "hostname": a.Hostname, "password": a.PasswordHash,
		}
	}
	text, err := yaml.Marshal(map[string]any{"autoinstall": config})
	return "#cloud-config\n" + string(text), err
}
