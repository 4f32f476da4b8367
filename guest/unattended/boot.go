package unattended

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Boot is how an installer is started without its CD's boot loader, whose menu
// nobody would answer.
type Boot struct {
	// System says what was recognised.
	System string
	// Cmdline of the kernel.
	Cmdline string

	kernel, initramfs io.Reader
	preseed           bool
}

// Bounds of the files that are taken out of an ISO.
const (
	maxKernel    = 256 << 20
	maxInitramfs = 1 << 30
)

// installers are those that are recognised, by the paths of their kernels.
var installers = []struct {
	system, kernel, initramfs, cmdline string
	preseed                            bool
}{
	{
		system: "debian-installer", kernel: "install.amd/vmlinuz", initramfs: "install.amd/initrd.gz", preseed: true,
		cmdline: "auto=true priority=critical DEBIAN_FRONTEND=text quiet console=ttyS0,115200n8 --- console=ttyS0,115200n8",
	},
	{
		system: "Ubuntu's live installer", kernel: "casper/vmlinuz", initramfs: "casper/initrd",
		cmdline: "autoinstall ds=nocloud quiet console=ttyS0,115200n8 --- console=ttyS0,115200n8",
	},
}

// Recognise looks into an installer's ISO. Nil means that it is none that is
// known, and is booted as it is; an error, that it is no ISO at all or damaged.
func Recognise(iso *os.File) (*Boot, error) {
	info, err := iso.Stat()
	if err != nil {
		return nil, err
	}
	c, err := openCD(iso, info.Size())
	if err != nil {
		return nil, err
	}
	for _, i := range installers {
		kernel, err := c.open(i.kernel)
		if errors.Is(err, errNotOnCD) {
			continue
		}
		if err != nil {
			return nil, err
		}
		initramfs, err := c.open(i.initramfs)
		if errors.Is(err, errNotOnCD) {
			continue
		}
		switch {
		case err != nil:
			return nil, err
		case kernel.Size() > maxKernel || initramfs.Size() > maxInitramfs:
			return nil, fmt.Errorf("its kernel and initramfs have %d and %d bytes, which cannot be", kernel.Size(), initramfs.Size())
		}
		return &Boot{System: i.system, Cmdline: i.cmdline, kernel: kernel, initramfs: initramfs, preseed: i.preseed}, nil
	}
	return nil, nil
}

// WriteKernel writes the kernel.
func (b *Boot) WriteKernel(w io.Writer) error {
	_, err := io.Copy(w, b.kernel)
	return err
}

// WriteInitramfs writes the initramfs, and behind it, for an installer that looks
// for its answers there, another one that holds them.
func (b *Boot) WriteInitramfs(w io.Writer, a Answers) error {
	if err := a.Check(); err != nil {
		return err
	}
	n, err := io.Copy(w, b.initramfs)
	if err != nil || !b.preseed {
		return err
	}
	_, err = w.Write(append(make([]byte, (4-n%4)%4), cpio("preseed.cfg", []byte(a.preseed()))...))
	return err
}

// Script is what the installer takes its answers from: the content of preseed.cfg,
// or of the user-data of its cloud-init.
func (b *Boot) Script(a Answers) (string, error) {
	if err := a.Check(); err != nil {
		return "", err
	}
	if b.preseed {
		return a.preseed(), nil
	}
	return a.autoinstall()
}

// FromCD is what the command line is besides what the CD's boot loader says, where
// the script is on the CD, as preseed.cfg or user-data.
func (b *Boot) FromCD() string {
	if b.preseed {
		return "preseed/file=/cdrom/preseed.cfg " + b.Cmdline
	}
	return b.Cmdline
}

// cpio is an archive of one file, in the form that the kernel takes for an
// initramfs ("newc").
func cpio(name string, data []byte) []byte {
	var out []byte
	entry := func(name string, mode int, data []byte) {
		out = fmt.Appendf(out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		out = append(out, make([]byte, (4-len(out)%4)%4)...)
		out = append(out, data...)
		out = append(out, make([]byte, (4-len(out)%4)%4)...)
	}
	entry(name, 0o100600, data)
	entry("TRAILER!!!", 0, nil)
	return out
}
