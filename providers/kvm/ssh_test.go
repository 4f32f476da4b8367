//go:build linux

package kvm_test

import (
	"context"
	"io"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/conformance"
	"sandboxd.dev/sandboxd/providers/ssh"
)

// TestSSH runs the conformance suite's commands and files over ssh in a real
// guest, with a real server and shell.
func TestSSH(t *testing.T) {
	l := newLab(t)
	guests := ssh.New(ssh.Options{Key: ssh.NewKey(filepath.Join(t.TempDir(), "key"))})
	key, err := guests.AuthorizedKey()
	must(t, err)
	id := l.boot(t, "ssh", v1.Network{Mode: v1.NetworkHostOnly}, func(s *providers.MachineSpec) {
		s.Seed.SSHAuthorizedKeys = []string{key}
	})
	p := overSSH{l.p, guests}
	eventually(t, "the guest's ssh server lets us in", func() bool {
		_, err := p.Exec(context.Background(), id, providers.ExecRequest{Command: []string{"true"}})
		return err == nil
	})
	conformance.RunGuest(t, p, id, "nobody")
}

// overSSH reaches into guests by ssh, with one login for each call.
type overSSH struct {
	providers.Provider
	guests *ssh.Guests
}

func (p overSSH) open(id types.UID) *ssh.Client {
	sbx, img := &v1.Sandbox{}, &v1.GoldenImage{}
	sbx.Namespace, sbx.Name, sbx.UID = "default", "ssh", id
	sbx.Spec.Network.Mode = v1.NetworkHostOnly
	img.Name, img.Spec.Guest.Agent = "plain", v1.GuestAgentNone
	return p.guests.Open(p.Provider, sbx, img)
}

func (p overSSH) Exec(ctx context.Context, id types.UID, req providers.ExecRequest) (providers.ExecResult, error) {
	c := p.open(id)
	defer c.Close()
	return c.Exec(ctx, req)
}

func (p overSSH) WriteFile(ctx context.Context, id types.UID, path string, mode uint32, r io.Reader) error {
	c := p.open(id)
	defer c.Close()
	return c.WriteFile(ctx, path, mode, r)
}

func (p overSSH) ReadFile(ctx context.Context, id types.UID, path string, w io.Writer) (providers.FileInfo, error) {
	c := p.open(id)
	defer c.Close()
	return c.ReadFile(ctx, path, w)
}
