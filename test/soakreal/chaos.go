//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// chaos is what happens to a host: processes are killed, and people do things by hand.
type chaos struct {
	h    *host
	rand *rand.Rand
}

func newChaos(h *host) *chaos {
	return &chaos{h: h, rand: rand.New(rand.NewPCG(h.o.seed, 1<<32))}
}

func (c *chaos) work(ctx context.Context) {
	deeds := []struct {
		what string
		do   func() error
	}{
		{"(kill the daemon)", c.killDaemon},
		{"(kill the daemon)", c.killDaemon},
		{"(restart the daemon)", c.restartDaemon},
		{"(kill libvirtd)", c.killLibvirtd},
		{"(kill a QEMU)", c.killQEMU},
		{"(virsh destroy)", c.byHand("destroy")},
		{"(virsh undefine)", c.byHand("undefine", "--nvram")},
		{"(virsh suspend)", c.byHand("suspend")},
		{"(virsh net-destroy)", c.network("net-destroy")},
	}
	for pause(ctx, time.Duration(2000+c.rand.IntN(6000))*time.Millisecond) {
		d := deeds[c.rand.IntN(len(deeds))]
		c.h.count.add(d.what, d.do())
	}
}

// What chaos ends it also starts again, whatever the time: the rest of the run needs it.

func (c *chaos) killDaemon() error {
	c.h.kill()
	return c.h.start(context.Background())
}

func (c *chaos) restartDaemon() error {
	return errors.Join(c.h.stop(), c.h.start(context.Background()))
}

func (c *chaos) killLibvirtd() error {
	b, err := os.ReadFile(os.Getenv("SANDBOXD_LIBVIRTD_PIDFILE"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	time.Sleep(time.Duration(c.rand.IntN(3000)) * time.Millisecond)
	out, err := exec.Command(os.Getenv("SANDBOXD_LIBVIRTD_START")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("start libvirtd: %w: %s", err, out)
	}
	return nil
}

func (c *chaos) killQEMU() error {
	all, err := processes()
	if err != nil {
		return err
	}
	var pids []int
	for pid, name := range all {
		if strings.HasPrefix(name, "qemu-system") {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return errors.New("none runs")
	}
	return syscall.Kill(pids[c.rand.IntN(len(pids))], syscall.SIGKILL)
}

// byHand does something to a machine that runs.
func (c *chaos) byHand(verb string, flags ...string) func() error {
	return c.one([]string{"list", "--name"}, verb, flags...)
}

// network does something to a network that is active.
func (c *chaos) network(verb string) func() error {
	return c.one([]string{"net-list", "--name"}, verb)
}

func (c *chaos) one(list []string, verb string, flags ...string) func() error {
	return func() error {
		out, err := virsh(list...)
		if err != nil {
			return err
		}
		names := strings.Fields(out)
		if len(names) == 0 {
			return errors.New("there is none")
		}
		_, err = virsh(append([]string{verb, names[c.rand.IntN(len(names))]}, flags...)...)
		return err
	}
}

func virsh(args ...string) (string, error) {
	out, err := exec.Command("virsh", args...).Output()
	if err != nil {
		return "", fmt.Errorf("virsh %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}
