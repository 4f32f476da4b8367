package doctor

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/version"

	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/providers"
)

// verdict is the severity of the first finding of a check whose message has a
// text.
func verdict(t *testing.T, findings []providers.Finding, check, text string) providers.Severity {
	t.Helper()
	i := slices.IndexFunc(findings, func(f providers.Finding) bool { return f.Check == check && strings.Contains(f.Message, text) })
	if i < 0 {
		t.Errorf("no finding on %s says %q: %+v", check, text, findings)
		return ""
	}
	return findings[i].Severity
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s.sock")
	images := filepath.Join(dir, "images")
	if err := errors.Join(os.Mkdir(images, 0o755), os.WriteFile(filepath.Join(images, "i.qcow2"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	answer := func(v string, err error) func(context.Context) (*version.Info, error) {
		return func(context.Context) (*version.Info, error) { return &version.Info{GitVersion: v}, err }
	}
	good := Options{
		Config: config.Config{DataDir: dir, BaseImageDir: images}, Socket: socket, Version: "v1", ServerVersion: answer("v1", nil),
		Hypervisors: []func(context.Context) []providers.Finding{func(context.Context) []providers.Finding {
			return []providers.Finding{found("libvirt", ok, "it answers", "")}
		}},
	}
	for name, c := range map[string]struct {
		change      func(*Options)
		check, text string
		want        providers.Severity
		sound       bool
	}{
		"daemon":             {func(*Options) {}, "daemon", "it answers", ok, true},
		"hypervisor":         {func(*Options) {}, "libvirt", "it answers", ok, true},
		"images":             {func(*Options) {}, "base images", "1 files", ok, true},
		"bad configuration":  {func(o *Options) { o.ConfigErr = errors.New("setting x: bad") }, "configuration", "setting x: bad", missing, false},
		"no data folder":     {func(o *Options) { o.Config.DataDir = dir + "/no" }, "data folder", "does not exist yet", warning, true},
		"data folder a file": {func(o *Options) { o.Config.DataDir = images + "/i.qcow2" }, "data folder", "is not a folder", missing, false},
		"no images":          {func(o *Options) { o.Config.BaseImageDir = t.TempDir() }, "base images", "is empty", warning, true},
		"no socket":          {func(o *Options) { o.Socket = dir + "/no" }, "daemon", "no daemon runs", missing, false},
		"dumb socket":        {func(o *Options) { o.ServerVersion = answer("", errors.New("EOF")) }, "daemon", "does not answer", missing, false},
		"another version":    {func(o *Options) { o.ServerVersion = answer("v2", nil) }, "versions", "the daemon is v2, this program v1", warning, true},
		"waiting": {func(o *Options) {
			o.ServerReady = func(context.Context) error { return errors.New("another host is before it") }
		}, "readiness", "does not look after machines: another host is before it", missing, false},
		"simulated": {func(o *Options) { o.ServerVersion = answer("v1+simulated", nil) }, "daemon", "simulates", warning, true},
		"hypervisor is wrong": {func(o *Options) {
			o.Hypervisors = append(o.Hypervisors, func(context.Context) []providers.Finding {
				return []providers.Finding{found("QEMU", missing, "none", "install it")}
			})
		}, "QEMU", "none", missing, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			c.change(&o)
			findings := Run(context.Background(), o)
			if got := verdict(t, findings, c.check, c.text); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if Sound(findings) != c.sound {
				t.Errorf("sound: got %v", !c.sound)
			}
		})
	}
}

func TestPrint(t *testing.T) {
	for want, findings := range map[string][]providers.Finding{
		"✓ a  fine\n\nEverything is as it should be.\n":                                                         {found("a", ok, "fine", "")},
		"! a   slow\n      → do this\n✓ bb  fine\n\nNothing is missing; 1 of 2 checks have something to say.\n": {found("a", warning, "slow", "do this"), found("bb", ok, "fine", "")},
		"✗ a  gone\n     → do that\n\n1 of 1 checks found something missing.\n":                                 {found("a", missing, "gone", "do that")},
	} {
		var b bytes.Buffer
		if err := Print(&b, findings); err != nil || b.String() != want {
			t.Errorf("got %q and %v, want %q", b.String(), err, want)
		}
	}
}
