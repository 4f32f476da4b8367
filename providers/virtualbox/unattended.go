package virtualbox

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/guest/unattended"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/installer"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// VirtualBox's unattended installation makes a CD of the installer's and a script, as
// a description that its processes read (Unattended-*), puts it into a drive of its
// own and changes the boot order, which the machine's plan has the last word of.

// detected is what VirtualBox takes an installer for.
type detected struct {
	system    string
	supported bool // it can install it unattended
}

// detect asks VirtualBox what an installer is. It answers and fails, as with 7.2, by
// its exit code.
func (p *Provider) detect(ctx context.Context, media installer.Media) (detected, error) {
	out, err := p.vbox.Run(ctx, vboxmanage.Call{
		Object: media.Object, Args: []string{"unattended", "detect", "--iso=" + media.ISO(), "--machine-readable"},
	})
	if d, ok := parseDetected(out.Stdout); ok {
		return d, nil
	}
	if err != nil && !understood(err) {
		return detected{}, err
	}
	return detected{}, nil // it has no word for it
}

// parseDetected reads the answer; not ok when there is none.
func parseDetected(out []byte) (d detected, ok bool) {
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, `"`); key {
		case "OSTypeId":
			d.system = value
		case "IsInstallSupported":
			d.supported, ok = value == "on", true
		}
	}
	d.supported = d.supported && d.system != ""
	return d, ok
}

// unattendedByUs prepares an installer that our own answers are for. They hold a hash
// of the password, so VirtualBox, which does not go without one, is given another.
func (p *Provider) unattendedByUs(ctx context.Context, spec providers.MachineSpec, r record, known *unattended.Boot) error {
	object := machineObject(r.ID)
	script, err := known.Script(answersOf(spec))
	if err != nil {
		return providers.Errorf(providers.ErrInvalid, object, "its answers cannot be written: %w", err)
	}
	p.steps.next()
	if err := files.Write(p.answersFile(r), []byte(script), 0o600); err != nil {
		return p.fileError(object, err)
	}
	return p.unattendedInstall(ctx, spec, r, rand.Text(),
		"--script-template="+p.answersFile(r), "--extra-install-kernel-parameters="+known.FromCD())
}

// unattendedByVirtualBox prepares an installer that VirtualBox has answers for and we
// have none. Its templates are told the password itself.
func (p *Provider) unattendedByVirtualBox(ctx context.Context, spec providers.MachineSpec, r record, found detected) error {
	return p.unattendedInstall(ctx, spec, r, spec.Install.Password, "--post-install-command="+powerOffCommand(found.system))
}

// powerOffCommand is what ends an installation, where it was done: at the first login
// of Windows, in the installers of others.
func powerOffCommand(system string) string {
	if strings.HasPrefix(system, "Windows") {
		return "shutdown /s /t 30"
	}
	return "systemctl poweroff --force --force"
}

// unattendedInstall has VirtualBox prepare the machine. Of what it prints, which has
// the password in it, nothing is kept.
func (p *Provider) unattendedInstall(ctx context.Context, spec providers.MachineSpec, r record, password string, more ...string) error {
	file, err := p.passwordFile(providers.Login{Password: password})
	if err != nil {
		return p.fileError(machineObject(r.ID), err)
	}
	defer func() { _ = os.Remove(file) }()
	args, err := unattendedArguments(spec, p.media(r).ISO(), file)
	if err != nil {
		return providers.Errorf(providers.ErrInvalid, machineObject(r.ID), "%w", err)
	}
	_, err = p.manage(ctx, r.ID, vboxmanage.Slow, append(args, more...)...)
	return err
}

// unattendedArguments are those of every unattended installation.
func unattendedArguments(spec providers.MachineSpec, iso, passwordFile string) ([]string, error) {
	a := answersOf(spec)
	if err := a.Check(); err != nil {
		return nil, fmt.Errorf("its answers cannot be written: %w", err)
	}
	locale, _, _ := strings.Cut(a.Locale, ".")
	if len(locale) != len("ll_CC") { // VirtualBox knows no languages of three letters
		locale = "en_US"
	}
	host := a.Hostname
	if !strings.Contains(host, ".") {
		host += ".localdomain" // VirtualBox takes no other
	}
	return []string{
		"unattended", "install", string(spec.ID), "--iso=" + iso, "--user=" + a.User, "--user-password-file=" + passwordFile,
		"--full-user-name=" + a.User, "--hostname=" + host, "--locale=" + locale, "--country=" + locale[len(locale)-2:],
		"--time-zone=UTC", "--no-install-additions",
	}, nil
}

// closeDVDs has VirtualBox forget the CDs in a folder that are in no drive.
func (p *Provider) closeDVDs(ctx context.Context, id types.UID, dir string) error {
	out, err := p.vbox.List(ctx, machineObject(id), "dvds")
	if err != nil {
		return err
	}
	for _, b := range vboxmanage.Blocks(out) {
		if !within(dir, b["Location"]) {
			continue
		}
		if _, err := p.manage(ctx, id, 0, "closemedium", "dvd", b["UUID"]); p.ignoreMissing(err) != nil {
			return err
		}
	}
	return nil
}

// controllersOf lists a machine's storage controllers.
func controllersOf(info vboxmanage.Info) []string {
	var names []string
	for i := 0; ; i++ {
		name, ok := info[fmt.Sprintf("storagecontrollername%d", i)]
		if !ok {
			return names
		}
		names = append(names, name)
	}
}

func hasController(info vboxmanage.Info, name string) bool {
	return slices.Contains(controllersOf(info), name)
}

// idleControllers lists those, besides our own, that nothing is attached to.
func idleControllers(info vboxmanage.Info) []string {
	disks, others := attached(info)
	return slices.DeleteFunc(controllersOf(info), func(name string) bool {
		return name == controller || slices.ContainsFunc(append(disks, others...), func(d disk) bool {
			return d.controller == name && !d.empty()
		})
	})
}
