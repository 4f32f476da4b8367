package unattended

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/guest/cloudinit"
)

// Answers to an installer's questions.
type Answers struct {
	// InstanceID tells cloud-init in the installer which machine it runs on.
	InstanceID string
	// User to create, or root.
	User string
	// PasswordHash of the user, as of HashPassword.
	PasswordHash string
	// Hostname, perhaps with a domain.
	Hostname string
	// Locale with its character set.
	Locale string
	// Packages to install besides the base system.
	Packages []string
	// Disk to install on, as the installer calls it.
	Disk string
	// Online: the machine has a network. Without one, installers that download
	// take what is on their CD.
	Online bool
}

// defaultLocale is what a manifest that names none gets.
const defaultLocale = "en_US.UTF-8"

// New makes answers of a manifest's. Its words are checked by Write.
func New(id, name string, in v1.UnattendedInstall, password string) Answers {
	locale := cmp.Or(in.Locale, defaultLocale)
	if !strings.Contains(locale, ".") {
		locale += ".UTF-8"
	}
	return Answers{
		InstanceID: id, User: in.User, PasswordHash: HashPassword(password, id),
		Hostname: cmp.Or(in.Hostname, name), Locale: locale, Packages: in.Packages,
	}
}

// What answers consist of. An installer takes them for words of its own formats
// and of shell scripts, so nothing else passes.
var (
	userName  = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	hashed    = regexp.MustCompile(`^\$6\$[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}$`)
	hostName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	locales   = regexp.MustCompile(`^[a-z]{2,3}_[A-Z]{2}\.[A-Za-z0-9-]+$`)
	packages  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._:-]*$`)
	disks     = regexp.MustCompile(`^/dev/[a-z]+$`)
	instances = regexp.MustCompile(`^[0-9a-f-]+$`)
)

// Check refuses what no installer is to be told.
func (a Answers) Check() error {
	for _, f := range []struct {
		what, value string
		pattern     *regexp.Regexp
	}{
		{"instance", a.InstanceID, instances},
		{"user", a.User, userName},
		{"hostname", a.Hostname, hostName},
		{"locale", a.Locale, locales},
		{"disk", a.Disk, disks},
	} {
		if !f.pattern.MatchString(f.value) {
			return fmt.Errorf("%s %q is malformed", f.what, f.value)
		}
	}
	if !hashed.MatchString(a.PasswordHash) {
		return fmt.Errorf("the password of user %q is not a SHA-512 hash", a.User)
	}
	for _, p := range a.Packages {
		if !packages.MatchString(p) {
			return fmt.Errorf("package %q is malformed", p)
		}
	}
	return nil
}

// Write writes the CD that holds the answers in every form.
func Write(w io.Writer, a Answers) error {
	if err := a.Check(); err != nil {
		return err
	}
	user, err := a.autoinstall()
	if err != nil {
		return err
	}
	meta := "instance-id: " + a.InstanceID + "-install\n"
	return cloudinit.WriteFiles(w, "cidata", map[string][]byte{
		"meta-data":   []byte(meta),
		"user-data":   []byte(user),
		"preseed.cfg": []byte(a.preseed()),
	})
}

// host splits the host name from its domain.
func (a Answers) host() (name, domain string) {
	name, domain, _ = strings.Cut(a.Hostname, ".")
	return name, domain
}
