//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// watched are the programs that sandboxd, or libvirt for it, has running.
var watched = []string{"qemu-system", "qemu-img", "dnsmasq", "swtpm", "virtiofsd", "passt"}

// world lists everything that a sandbox may leave on the host: what libvirt has, links,
// rules of the firewall, processes, listening ports, mounts and files.
func (h *host) world() ([]string, error) {
	var all []string
	for _, list := range []struct{ what, command string }{
		{"domain", "virsh -q list --all --uuid"},
		{"saved state", "virsh -q list --all --with-managed-save --name"},
		{"network", "virsh -q net-list --all --name"},
		{"filter", "virsh -q nwfilter-list | awk '{print $2}'"},
		{"pool", "virsh -q pool-list --all --name"},
		{"secret", "virsh -q secret-list | awk '{print $1}'"},
		{"link", "ip -o link | awk -F': ' '{print $2}'"},
		{"namespace", "ip netns list"},
		// libvirt keeps its own tables; what counts in them are rules for a link.
		{"table", "nft list tables | grep sandboxd || true"},
		{"rule for link", `nft list ruleset | grep -oE '[io]ifname "?[^" ]+' | awk '{gsub("\"", ""); print $2}' | sort -u`},
		{"legacy rule for link", `iptables-save 2>/dev/null | grep -oE -- '-[io] [^ ]+' | awk '{print $2}' | sort -u || true`},
		{"port", `ss -Hlntu | awk '{print $1, $5}'`},
		{"mount", `awk '{print $2}' /proc/self/mounts`},
		{"runtime file", "find /run/libvirt/qemu /run/libvirt/network /var/lib/libvirt/dnsmasq /var/lib/libvirt/qemu -type f ! -name '*.pid' ! -name 'driver.*' 2>/dev/null || true"},
	} {
		out, err := exec.Command("sh", "-c", list.command).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", list.command, err)
		}
		for line := range strings.Lines(string(out)) {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, list.what+" "+line)
			}
		}
	}
	running, err := processes()
	if err != nil {
		return nil, err
	}
	for _, name := range running {
		if slices.ContainsFunc(watched, func(w string) bool { return strings.HasPrefix(name, w) }) {
			all = append(all, "process "+name)
		}
	}
	files, err := h.files()
	all = append(all, files...)
	slices.Sort(all)
	return slices.Compact(all), err
}

// files of machines, images and downloads that are in the data folder, and temporary
// files; what every daemon has is none.
func (h *host) files() ([]string, error) {
	var all []string
	own := map[string]bool{"store.db": true, "store.db.lock": true, "instance": true, "lock": true, "ssh_key": true, "id_ed25519": true}
	see := func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // the daemon has just removed it, or has not made it
			return nil
		case err != nil:
			return err
		case e.IsDir() && (path == h.path("data/audit") || path == h.path("data/pki")):
			return fs.SkipDir
		case !e.IsDir() && !own[e.Name()]:
			all = append(all, "file "+path)
		}
		return nil
	}
	err := errors.Join(filepath.WalkDir(h.path("data"), see), filepath.WalkDir(h.path("tmp"), see))
	return all, err
}

// processes are the names of all that run, by process ID.
func processes() (map[int]string, error) {
	all := map[int]string{}
	paths, err := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range paths {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path))) // the pattern has digits only
		if comm, err := os.ReadFile(path); err == nil {
			all[pid] = strings.TrimSpace(string(comm))
		}
	}
	return all, err
}

// compare tells what is there that was not, and the other way round.
func (h *host) compare(before []string) error {
	now, err := h.world()
	if err != nil {
		return err
	}
	if more, less := without(now, before), without(before, now); len(more)+len(less) > 0 {
		return fmt.Errorf("left over: %q, and gone: %q", more, less)
	}
	return nil
}

func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// prove plants something of every kind and demands that the audit finds each of them,
// and nothing once they are gone.
func (h *host) prove(ctx context.Context, before []string) error {
	const uuid = "5a5a5a5a-0000-4000-8000-00000000dead"
	file := h.path("data/kvm/machines/planted.qcow2")
	sleeper := h.path("qemu-system-planted")
	shell := func(script string) func() error {
		return func() error {
			out, err := exec.Command("sh", "-c", script).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w: %s", script, err, out)
			}
			return nil
		}
	}
	var process *exec.Cmd
	plants := map[string]struct{ plant, remove func() error }{
		"domain " + uuid: {
			shell("echo \"<domain type='qemu'><name>planted</name><uuid>" + uuid + "</uuid><memory>65536</memory><os><type>hvm</type></os></domain>\" | virsh define /dev/stdin"),
			shell("virsh undefine " + uuid),
		},
		"network planted": {
			shell("echo \"<network><name>planted</name></network>\" | virsh net-define /dev/stdin"),
			shell("virsh net-undefine planted"),
		},
		"link planted0":          {shell("ip link add planted0 type bridge"), shell("ip link del planted0")},
		"rule for link planted1": {shell("nft 'add table ip planted; add chain ip planted c; add rule ip planted c iifname planted1 drop'"), shell("nft delete table ip planted")},
		"file " + file: {
			func() error {
				return errors.Join(os.MkdirAll(filepath.Dir(file), 0o711), os.WriteFile(file, nil, 0o600))
			},
			func() error { return os.Remove(file) },
		},
		"process qemu-system-pla": { // a process's name has 15 characters at the most
			func() error {
				program, err := exec.LookPath("sleep")
				if err != nil {
					return err
				}
				b, err := os.ReadFile(program)
				if err != nil {
					return err
				}
				if err := os.WriteFile(sleeper, b, 0o700); err != nil {
					return err
				}
				process = exec.Command(sleeper, "600")
				process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				return process.Start()
			},
			func() error {
				_ = process.Process.Kill()
				_ = process.Wait() // it was killed
				return nil
			},
		},
	}
	// The daemon would not touch any of them, but for a file in its folder it might.
	for _, what := range slices.Sorted(maps.Keys(plants)) {
		if err := plants[what].plant(); err != nil {
			return err
		}
		now, err := h.world()
		if err := errors.Join(err, plants[what].remove()); err != nil {
			return err
		}
		if found := without(now, before); !slices.Contains(found, what) {
			return fmt.Errorf("the audit is blind: %s was planted, and it found %q", what, found)
		}
	}
	fmt.Printf("soak: the audit found each of %d planted things\n", len(plants))
	return h.await(ctx, "what was planted is gone", func() error { return h.compare(before) })
}
