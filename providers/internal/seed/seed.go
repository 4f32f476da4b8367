// Package seed writes the cloud-init seeds of machines.
//
//	MachineSpec ──▶ cloudinit.Data ──▶ seed.iso, a CD that the guest reads when it boots
package seed

import (
	"bytes"
	"cmp"
	"io"
	"os"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/guest/cloudinit"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// Write writes a machine's seed unless it is there already: a hypervisor may have
// given the file to another user or have it in use. before is called first if
// anything is to be changed. What cannot be written on a CD is ErrInvalid; errors
// of files have no kind.
func Write(path string, spec providers.MachineSpec, before func()) error {
	d := cloudinit.Data{
		InstanceID: string(spec.ID), Hostname: cmp.Or(spec.Seed.Hostname, spec.Name), User: spec.Seed.User,
		SSHAuthorizedKeys: spec.Seed.SSHAuthorizedKeys, UserData: spec.Seed.UserData, NetworkConfig: spec.Seed.NetworkConfig,
	}
	if spec.Network.Mode != v1.NetworkNone {
		d.MACAddress = providers.MACAddress(spec.ID, 0)
	}
	var want bytes.Buffer
	if err := cloudinit.Write(&want, d); err != nil {
		return providers.Errorf(providers.ErrInvalid, "machine "+string(spec.ID), "its cloud-init seed cannot be written: %w", err)
	}
	if same(path, want.Bytes()) {
		return nil
	}
	before()
	return files.Write(path, want.Bytes(), datafolder.FileMode)
}

// same tells whether a file has a content. The file may be anything: it was in
// the hands of the hypervisor's user.
func same(path string, want []byte) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	have, err := io.ReadAll(io.LimitReader(f, int64(len(want))+1))
	return err == nil && bytes.Equal(have, want)
}
