package virtualbox

import (
	"slices"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

func TestParseDetected(t *testing.T) {
	for name, of := range map[string]struct {
		out  string
		want detected
		ok   bool
	}{
		"a system":            {"OSTypeId=\"Debian12_64\"\nOSVersion=\"12.5.0 \\\"Bookworm\\\"\"\nIsInstallSupported=\"on\"\n", detected{"Debian12_64", true}, true},
		"one it cannot do":    {"OSTypeId=\"Linux26_64\"\nIsInstallSupported=\"off\"\n", detected{"Linux26_64", false}, true},
		"one without a name":  {"OSTypeId=\"\"\nIsInstallSupported=\"on\"\n", detected{}, true},
		"no answer":           {"VBoxManage: error\n", detected{}, false},
		"nothing":             {"", detected{}, false},
		"an answer cut short": {"OSTypeId=\"Debian12_64\"\n", detected{system: "Debian12_64"}, false},
	} {
		if got, ok := parseDetected([]byte(of.out)); got != of.want || ok != of.ok {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
}

// TestUnattendedArguments: the password is none of them.
func TestUnattendedArguments(t *testing.T) {
	spec := providers.MachineSpec{
		ID: "6253d238-8ffa-4c3a-ad45-3cb04de2eed4", Name: "web",
		Install: &providers.Install{Password: "secret", Answers: v1.UnattendedInstall{User: "alice", Locale: "de_DE"}},
	}
	got, err := unattendedArguments(spec, "/d/install.iso", "/d/file")
	want := []string{
		"unattended", "install", "6253d238-8ffa-4c3a-ad45-3cb04de2eed4", "--iso=/d/install.iso", "--user=alice", "--user-password-file=/d/file",
		"--full-user-name=alice", "--hostname=web.localdomain", "--locale=de_DE", "--country=DE", "--time-zone=UTC", "--no-install-additions",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	spec.Install.Answers.User = "--x"
	if _, err := unattendedArguments(spec, "/d/install.iso", "/d/file"); err == nil {
		t.Error("a user that is an option passes")
	}
}

func TestBootOrder(t *testing.T) {
	for a, want := range map[instructions][]string{
		"":                nil,
		answersOurs:       {"--boot1", "dvd", "--boot2", "disk"},
		answersVirtualBox: {"--boot1", "disk", "--boot2", "dvd"},
	} {
		if got := a.bootOrder(); !slices.Equal(got, want) {
			t.Errorf("%q: %q", a, got)
		}
	}
}

func TestIdleControllers(t *testing.T) {
	info := vboxmanage.Info{
		"storagecontrollername0": "SATA", "storagecontrollername1": "IDE", "storagecontrollername2": "Floppy", "storagecontrollername3": "SAS",
		"SATA-0-0": "none", "IDE-0-0": "emptydrive", "IDE-0-1": "none", "Floppy-0-0": "/x.img", "SAS-0-0": "none",
	}
	if got := idleControllers(info); !slices.Equal(got, []string{"IDE", "SAS"}) {
		t.Errorf("idle are %q", got)
	}
}

func TestCheckInstalled(t *testing.T) {
	p := &Provider{}
	in := providers.MachineSpec{ID: "6253d238-8ffa-4c3a-ad45-3cb04de2eed4", Install: &providers.Install{}}
	out := in
	out.Install = nil
	for name, of := range map[string]struct {
		spec providers.MachineSpec
		r    record
		ok   bool
	}{
		"a new one":                {in, record{}, true},
		"one that installs":        {in, record{Disk: "/d", Installer: answersOurs}, true},
		"one that is installed":    {out, record{Disk: "/d"}, true},
		"neither":                  {out, record{}, false},
		"one cut off before":       {out, record{Installer: answersOurs}, false},
		"one of an image":          {in, record{Disk: "/d", Image: providers.ImageRef{UID: "a", Revision: "1"}}, false},
		"one of an image, without": {out, record{Disk: "/d", Image: providers.ImageRef{UID: "a", Revision: "1"}}, false},
	} {
		if err := p.checkInstalled(of.spec, of.r); (err == nil) != of.ok || err != nil && providers.KindOf(err) != providers.ErrInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
