package conformance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Installer is a CD that installs a system whose guest is as the package comment
// asks for.
type Installer struct {
	// Path and SHA256 of its ISO.
	Path, SHA256 string
	// Boots: it does its work here. Otherwise all is shown but what comes of it.
	Boots bool
}

// installedUser is made by the installer.
const installedUser = "alice"

// installation is a machine that installs a system.
func (s *suite) installation(t testing.TB, name string) providers.MachineSpec {
	t.Helper()
	spec := s.spec(t, name)
	spec.Image, spec.DiskBytes = providers.ImageRef{}, 2<<30
	spec.Seed = providers.Seed{}
	s.bare[spec.ID] = true
	spec.Install = &providers.Install{
		ISO: s.b.Installer.Path, SHA256: s.b.Installer.SHA256, Password: `it's "secret" $HOME`,
		Answers: v1.UnattendedInstall{User: installedUser, Hostname: "installed.example.org", Locale: "de_DE", Packages: []string{"curl"}},
	}
	return spec
}

func (s *suite) testInstall(t *testing.T) {
	s.need(t, Install)
	t.Run("an installation that cannot be is ErrInvalid, and leaves nothing", s.testBadInstallation)
	t.Run("EnsureMachine with an installer that ends within the call is followed by one that converges", s.testInterruptedInstallation)
	t.Run("a machine that installs is removed with all that it has", s.testAbandonedInstallation)
	t.Run("an installer installs what it was told to, and its machine boots that afterwards", s.testInstallation)
}

func (s *suite) testBadInstallation(t *testing.T) {
	text := filepath.Join(s.b.Folder(t), "text.iso")
	must(t, "write", os.WriteFile(text, []byte(strings.Repeat("this is no CD\n", 1<<14)), 0o644)) //nolint:gosec // for whoever the provider is
	for name, of := range map[string]struct {
		change func(*providers.MachineSpec)
		kind   error
	}{
		"an image beside the installer":   {func(m *providers.MachineSpec) { m.Image = s.image.ImageRef }, providers.ErrInvalid},
		"neither an image nor one":        {func(m *providers.MachineSpec) { m.Install = nil }, providers.ErrInvalid},
		"a disk of no size":               {func(m *providers.MachineSpec) { m.DiskBytes = 0 }, providers.ErrInvalid},
		"a path that is not absolute":     {func(m *providers.MachineSpec) { m.Install.ISO = "x.iso" }, providers.ErrInvalid},
		"no user":                         {func(m *providers.MachineSpec) { m.Install.Answers.User = "" }, providers.ErrInvalid},
		"an installer that is not there":  {func(m *providers.MachineSpec) { m.Install.ISO = text + ".not" }, providers.ErrNotFound},
		"an installer that is a folder":   {func(m *providers.MachineSpec) { m.Install.ISO = filepath.Dir(text) }, providers.ErrInvalid},
		"an installer of another content": {func(m *providers.MachineSpec) { m.Install.SHA256 = strings.Repeat("0", 64) }, providers.ErrInvalid},
	} {
		spec := s.installation(t, strings.ReplaceAll(name, " ", "-"))
		of.change(&spec)
		want(t, name, s.p.EnsureMachine(s.ctx(t), spec), of.kind)
		s.remove(t, spec.ID)
	}
}

// testInterruptedInstallation cuts the making of the machine off at each step.
func (s *suite) testInterruptedInstallation(t *testing.T) {
	if s.b.Interrupt == nil {
		t.Skip("the backend has no means to cut a call off at its inner steps")
	}
	for step := 1; ; step++ {
		spec := s.installation(t, fmt.Sprintf("cut-%d", step))
		l := life{spec: spec, acts: []act{{"EnsureMachine", func(ctx context.Context, p providers.Provider) error { return p.EnsureMachine(ctx, spec) }}}}
		completed := s.dies(t, l, 0, step)
		s.reopen(t)
		s.ensure(t, spec)
		if m := s.get(t, spec.ID); m.Power != providers.PowerOff || m.Hashes != spec.Hashes() {
			t.Errorf("after it died at step %d: %+v", step, m)
		}
		s.remove(t, spec.ID)
		if completed || t.Failed() {
			return
		}
	}
}

func (s *suite) testAbandonedInstallation(t *testing.T) {
	spec := s.installation(t, "abandoned")
	id := s.made(t, spec)
	s.ensure(t, spec)
	must(t, "start", s.p.Start(s.ctx(t), id))
	s.reopen(t)
	if m := s.get(t, id); m.Power == providers.PowerOff && m.OffReason != providers.OffShutdown {
		t.Errorf("another process finds it %+v", m)
	}
}

func (s *suite) testInstallation(t *testing.T) {
	if !s.b.Installer.Boots {
		t.Skip("the installer does not do its work here")
	}
	spec := s.installation(t, "install")
	id := s.made(t, spec)
	must(t, "start", s.p.Start(s.ctx(t), id))
	eventually(t, s.b.Limits.Boot, func() string {
		if m := s.get(t, id); m.Power != providers.PowerOff {
			return "its installer has not powered it off"
		}
		return ""
	})
	if m := s.get(t, id); m.OffReason != providers.OffShutdown {
		t.Fatalf("it ended so: %+v\n%s", m, s.consoleLog(t, id, 4096))
	}
	spec.Install = nil
	spec.Seed = providers.Seed{Hostname: "golden", User: s.b.User}
	s.ensure(t, spec)
	s.ensure(t, spec)
	for _, r := range s.resources(t, ownedBy(id)) {
		if strings.Contains(r.ID, "install") {
			t.Errorf("left of the installer: %+v", r)
		}
	}
	s.boot(t, id)
	if got := s.exec(t, id, providers.ExecRequest{Command: []string{"id", "-un"}, User: installedUser}); strings.TrimSpace(got.stdout) != installedUser {
		t.Errorf("user %s: %+v", installedUser, got)
	}
}
