package virtualbox_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/guest/cloudinit"
	"sandboxd.dev/sandboxd/providers"
)

// life is what a benchmark's machines are, and what they are waited for.
type life struct {
	name   string // of the figures
	disk   v1.DiskSource
	memory int64 // bytes
	mode   v1.NetworkMode
	// byHand and ours wait for the machine to be as it should.
	byHand func(b *testing.B, name string)
	ours   func(b *testing.B, l *lab, id types.UID)
}

// BenchmarkLife compares the life of a linked clone with two shared folders, from
// its making to its removal, with the commands by which people do the same by
// hand. It tells how many processes of VBoxManage each takes, and prints the
// ratios, one line per figure:
//
//	make bench-virtualbox
func BenchmarkLife(b *testing.B) {
	compare(b, life{
		name: "life", disk: haltDisk(b), memory: 32 << 20, mode: v1.NetworkNone,
		byHand: func(b *testing.B, name string) {
			manage(b, "guestproperty", "get", name, "/VirtualBox/GuestInfo/Net/0/V4/IP") // there is none, and one asks
		},
		ours: func(b *testing.B, l *lab, id types.UID) {
			if m := l.get(b, id); m.Power != providers.PowerRunning {
				b.Fatalf("it is %+v", m)
			}
		},
	})
}

// BenchmarkAddress does the same with a guest that boots, until its address is
// known: by hand by asking once a second.
func BenchmarkAddress(b *testing.B) {
	compare(b, life{
		name: "address", disk: guestImage(b), memory: 128 << 20, mode: v1.NetworkNAT,
		byHand: func(b *testing.B, name string) {
			for end := time.Now().Add(10 * time.Minute); ; time.Sleep(time.Second) {
				if strings.Contains(manage(b, "guestproperty", "get", name, "/VirtualBox/GuestInfo/Net/0/V4/IP"), "Value: 10.") {
					return
				}
				if time.Now().After(end) {
					b.Fatal("it has no address")
				}
			}
		},
		ours: func(b *testing.B, l *lab, id types.UID) {
			ctx, cancel := context.WithTimeout(b.Context(), 10*time.Minute)
			defer cancel()
			var never <-chan time.Time
			// As the controller does: when the provider tells, and every five seconds
			// once the guest is up.
			for again := never; ; {
				m := l.get(b, id)
				if len(m.Addresses) > 0 {
					return
				}
				if m.Agent == providers.AgentConnected {
					again = time.After(5 * time.Second)
				}
				select {
				case <-l.events:
				case <-again:
				case <-ctx.Done():
					b.Fatal("it has no address")
				}
			}
		},
	})
}

// compare runs lives by hand and by sandboxd in turn, so that both meet the same
// host, and prints the ratios of their medians.
func compare(b *testing.B, of life) {
	counted := countingManage(b)
	l := newLab(b)
	l.image = l.imported(b, v1.ImageSource{Disk: &of.disk})
	if of.mode != v1.NetworkNone {
		ctx, cancel := context.WithCancel(context.Background())
		b.Cleanup(cancel)
		l.events = l.p.Events(ctx)
	}
	lives := [2]func(b *testing.B, round int){byHand(b, of), bySandboxd(b, l, of)}
	var processes, seconds [2][]float64
	b.Run("in turn", func(b *testing.B) {
		processes, seconds = [2][]float64{}, [2][]float64{}
		for round := range b.N {
			for n := range lives {
				n = (n + round) % 2 // who is first takes turns: the second finds caches warm
				before, begun := counted(), time.Now()
				lives[n](b, round)
				seconds[n] = append(seconds[n], time.Since(begun).Seconds())
				processes[n] = append(processes[n], float64(counted()-before))
			}
		}
		b.ReportMetric(median(seconds[0]), "s/byhand")
		b.ReportMetric(median(seconds[1]), "s/sandboxd")
	})
	if len(processes[0]) == 0 {
		return
	}
	fmt.Printf("bench: virtualbox_%s_processes %.3g of_by_hand\n", of.name, median(processes[1])/median(processes[0]))
	fmt.Printf("bench: virtualbox_%s_seconds %.3g of_by_hand\n", of.name, median(seconds[1])/median(seconds[0]))
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// byHand makes a golden machine by hand, with a seed in its drive, and returns the life of a clone by hand.
func byHand(b *testing.B, of life) func(b *testing.B, round int) {
	dir, in, out := b.TempDir(), b.TempDir(), b.TempDir()
	golden, clean := "hand-golden", "clean"
	manage(b, "createvm", "--name", golden, "--ostype", "Linux_64", "--basefolder", dir, "--register")
	vdi := filepath.Join(dir, "golden.vdi")
	run(b, "qemu-img", "convert", "-O", "vdi", of.disk.Path, vdi)
	manage(b, "storagectl", golden, "--name", "SATA", "--add", "sata", "--portcount", "2")
	manage(b, "storageattach", golden, "--storagectl", "SATA", "--port", "0", "--type", "hdd", "--medium", vdi)
	manage(b, "modifyvm", golden, "--memory", strconv.FormatInt(of.memory>>20, 10), "--vm-execution-engine", "interpreter",
		"--audio-driver", "none", "--paravirt-provider", "none", "--firmware-logo-display-time", "0",
		"--firmware-logo-fade-in", "off", "--firmware-logo-fade-out", "off")
	// The guest is to do the same by hand as with us: take what its seed says for its own.
	seed := filepath.Join(dir, "seed.iso")
	iso, err := os.Create(seed)
	must(b, err)
	must(b, cloudinit.Write(iso, cloudinit.Data{InstanceID: golden, Hostname: golden}))
	must(b, iso.Close())
	manage(b, "storageattach", golden, "--storagectl", "SATA", "--port", "1", "--type", "dvddrive", "--medium", seed)
	manage(b, "snapshot", golden, "take", clean)
	b.Cleanup(func() { manage(b, "unregistervm", golden, "--delete") })
	return func(b *testing.B, round int) {
		name := fmt.Sprintf("hand-%d", round)
		manage(b, "clonevm", golden, "--name", name, "--options", "link", "--snapshot", clean, "--basefolder", dir, "--register")
		manage(b, "modifyvm", name, "--nic1", string(of.mode))
		manage(b, "sharedfolder", "add", name, "--name", "task-input", "--hostpath", in, "--readonly")
		manage(b, "sharedfolder", "add", name, "--name", "task-output", "--hostpath", out)
		manage(b, "startvm", name, "--type", "headless")
		of.byHand(b, name)
		manage(b, "controlvm", name, "poweroff")
		eventually(b, "the machine can be removed", func() bool {
			return tryManage("unregistervm", name, "--delete") == nil
		})
	}
}

// bySandboxd returns the life of a clone of the lab's image.
func bySandboxd(b *testing.B, l *lab, of life) func(b *testing.B, round int) {
	in, out := b.TempDir(), b.TempDir()
	return func(b *testing.B, round int) {
		spec := l.spec(fmt.Sprintf("clone-%d", round))
		spec.MemoryBytes, spec.Network.Mode = of.memory, of.mode
		spec.SharedFolders = []v1.SharedFolder{{Name: "task-input", HostPath: in}, {Name: "task-output", HostPath: out, ReadOnly: new(bool)}}
		must(b, l.p.EnsureMachine(b.Context(), spec))
		must(b, l.p.Start(b.Context(), spec.ID))
		of.ours(b, l, spec.ID)
		remove(b, l.p, spec.ID)
	}
}

// countingManage puts a program in VBoxManage's place that counts how often it is
// started.
func countingManage(b *testing.B) (count func() int) {
	b.Helper()
	dir := b.TempDir()
	path, log := filepath.Join(dir, "VBoxManage"), filepath.Join(dir, "log")
	script := fmt.Sprintf("#!/bin/sh\necho >>%q\nexec %q \"$@\"\n", log, os.Getenv("VBOX_MANAGE_PATH"))
	must(b, os.WriteFile(path, []byte(script), 0o755))
	b.Setenv("VBOX_MANAGE_PATH", path)
	return func() int {
		lines, err := os.ReadFile(log)
		must(b, err)
		return bytes.Count(lines, []byte("\n"))
	}
}
