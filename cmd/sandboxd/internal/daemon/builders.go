package daemon

import (
	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/ssh"
)

// builders reaches, by ssh, into the guests that images without an agent are built
// in.
type builders struct{ *ssh.Guests }

// Reach implements goldenimage.SSH.
func (b builders) Reach(p providers.Provider, machine *v1.Sandbox, img *v1.GoldenImage) (build.Guest, func()) {
	c := b.Open(p, machine, img)
	return c, c.Close
}
