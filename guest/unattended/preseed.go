package unattended

import (
	"fmt"
	"strings"
)

// preseed are the answers for debian-installer: one question in each line, its
// owner, name, type and answer.
func (a Answers) preseed() string {
	var b strings.Builder
	b.WriteString("# Answers for debian-installer, made by sandboxd.\n")
	say := func(question, kind, answer string) {
		owner := "d-i"
		if p, _, ok := strings.Cut(question, "/"); ok && (p == "tasksel" || p == "popularity-contest") {
			owner = p
		}
		fmt.Fprintln(&b, strings.TrimRight(owner+" "+question+" "+kind+" "+answer, " "))
	}
	name, domain := a.host()
	say("debian-installer/locale", "string", a.Locale)
	say("keyboard-configuration/xkb-keymap", "select", "us")
	say("netcfg/choose_interface", "select", "auto")
	say("netcfg/get_hostname", "string", name)
	say("netcfg/get_domain", "string", domain)
	say("netcfg/hostname", "string", name)
	// With a network nothing is said of mirrors: an installer of this priority
	// takes the one that it was built with, for the country of the locale.
	if !a.Online {
		say("netcfg/enable", "boolean", "false")
		say("apt-setup/use_mirror", "boolean", "false")
		say("apt-setup/services-select", "multiselect", "")
	}
	a.preseedUser(say)
	for _, q := range [][3]string{
		{"clock-setup/utc", "boolean", "true"},
		{"time/zone", "string", "Etc/UTC"},
		{"clock-setup/ntp", "boolean", "false"},
		{"partman-auto/disk", "string", a.Disk},
		{"partman-auto/method", "string", "regular"},
		{"partman-auto/choose_recipe", "select", "atomic"},
		{"partman-partitioning/confirm_write_new_label", "boolean", "true"},
		{"partman/choose_partition", "select", "finish"},
		{"partman/confirm", "boolean", "true"},
		{"partman/confirm_nooverwrite", "boolean", "true"},
		{"apt-setup/cdrom/set-first", "boolean", "false"},
		{"tasksel/first", "multiselect", "standard, ssh-server"},
		{"pkgsel/include", "string", strings.Join(a.Packages, " ")},
		{"pkgsel/upgrade", "select", "none"},
		{"popularity-contest/participate", "boolean", "false"},
		{"grub-installer/only_debian", "boolean", "true"},
		{"grub-installer/bootdev", "string", a.Disk},
		{"cdrom-detect/eject", "boolean", "false"},
		{"finish-install/reboot_in_progress", "note", ""},
		{"debian-installer/exit/poweroff", "boolean", "true"},
	} {
		say(q[0], q[1], q[2])
	}
	return b.String()
}

func (a Answers) preseedUser(say func(question, kind, answer string)) {
	if a.User == "root" {
		say("passwd/root-login", "boolean", "true")
		say("passwd/root-password-crypted", "password", a.PasswordHash)
		say("passwd/make-user", "boolean", "false")
		return
	}
	say("passwd/root-login", "boolean", "false")
	say("passwd/make-user", "boolean", "true")
	say("passwd/user-fullname", "string", a.User)
	say("passwd/username", "string", a.User)
	say("passwd/user-password-crypted", "password", a.PasswordHash)
}
