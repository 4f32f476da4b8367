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
	"sandboxd.dev/sandboxd/guest/unattended"
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
	return write(path, spec, func(w io.Writer) error { return cloudinit.Write(w, d) }, before)
}

func write(path string, spec providers.MachineSpec, content func(io.Writer) error, before func()) error {
	var want bytes.Buffer
	if err := content(&want); err != nil {
		return providers.Errorf(providers.ErrInvalid, "machine "+string(spec.ID), "its seed cannot be written: %w", err)
	}
	if same(path, want.Bytes()) {
		return nil
	}
	before()
	return files.Write(path, want.Bytes(), datafolder.FileMode)
}

// WriteAnswers writes, in the place of a seed and like it, the answers to the
// questions of the installer that a machine runs. disk is as in AnswersOf.
func WriteAnswers(path string, spec providers.MachineSpec, disk string, before func()) error {
	return write(path, spec, func(w io.Writer) error { return unattended.Write(w, AnswersOf(spec, disk)) }, before)
}

// AnswersOf are the answers to the questions of the installer that a machine runs,
// which calls the disk to install on so.
func AnswersOf(spec providers.MachineSpec, disk string) unattended.Answers {
	a := unattended.New(string(spec.ID), spec.Name, spec.Install.Answers, spec.Install.Password)
	a.Disk, a.Online = disk, spec.Network.Mode != v1.NetworkNone
	return a
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
