package virtualbox_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
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

// compare runs lives by hand and by sandboxd.
func compare(b *testing.B, of life) {
	counted := countingManage(b)
	l := newLab(b)
	l.image = l.imported(b, v1.ImageSource{Disk: &of.disk})
	if of.mode != v1.NetworkNone {
		ctx, cancel := context.WithCancel(context.Background())
		b.Cleanup(cancel)
		l.events = l.p.Events(ctx)
	}
	in, out := b.TempDir(), b.TempDir()
	type cost struct{ processes, seconds float64 }
	var byHand, ours cost
	costOf := func(b *testing.B, before int) cost {
		n := float64(b.N)
		c := cost{float64(counted()-before) / n, b.Elapsed().Seconds() / n}
		b.ReportMetric(c.processes, "processes/op")
		return c
	}

	b.Run("by hand", func(b *testing.B) {
		dir := b.TempDir()
		golden, clean := "hand-golden", "clean"
		manage(b, "createvm", "--name", golden, "--ostype", "Linux_64", "--basefolder", dir, "--register")
		vdi := filepath.Join(dir, "golden.vdi")
		run(b, "qemu-img", "convert", "-O", "vdi", of.disk.Path, vdi)
		manage(b, "storagectl", golden, "--name", "SATA", "--add", "sata", "--portcount", "2")
		manage(b, "storageattach", golden, "--storagectl", "SATA", "--port", "0", "--type", "hdd", "--medium", vdi)
		manage(b, "modifyvm", golden, "--memory", strconv.FormatInt(of.memory>>20, 10), "--vm-execution-engine", "interpreter",
			"--audio-driver", "none", "--paravirt-provider", "none", "--firmware-logo-display-time", "0",
			"--firmware-logo-fade-in", "off", "--firmware-logo-fade-out", "off")
		manage(b, "snapshot", golden, "take", clean)
		b.Cleanup(func() { manage(b, "unregistervm", golden, "--delete") })
		before := counted()
		b.ResetTimer()
		for i := range b.N {
			name := fmt.Sprintf("hand-%d", i)
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
		b.StopTimer()
		byHand = costOf(b, before)
	})
	b.Run("sandboxd", func(b *testing.B) {
		before := counted()
		b.ResetTimer()
		for i := range b.N {
			spec := l.spec(fmt.Sprintf("clone-%d", i))
			spec.MemoryBytes, spec.Network.Mode = of.memory, of.mode
			spec.SharedFolders = []v1.SharedFolder{{Name: "task-input", HostPath: in}, {Name: "task-output", HostPath: out, ReadOnly: new(bool)}}
			must(b, l.p.EnsureMachine(b.Context(), spec))
			must(b, l.p.Start(b.Context(), spec.ID))
			of.ours(b, l, spec.ID)
			remove(b, l.p, spec.ID)
		}
		b.StopTimer()
		ours = costOf(b, before)
	})
	if byHand.processes > 0 && ours.processes > 0 {
		fmt.Printf("bench: virtualbox_%s_processes %.3g of_by_hand\n", of.name, ours.processes/byHand.processes)
		fmt.Printf("bench: virtualbox_%s_seconds %.3g of_by_hand\n", of.name, ours.seconds/byHand.seconds)
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
