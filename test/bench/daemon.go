//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"sandboxd.dev/sandboxd/client"
)

// daemon is a sandboxd process with a data folder and a socket of its own.
type daemon struct {
	binary string
	dir    string
	socket string
	cmd    *exec.Cmd
	exited chan error
	log    *os.File
	client *client.Client
	// clientCPU is the processor time that commands against it took, in seconds.
	clientCPU float64
}

// startDaemon starts a daemon and waits until it answers.
func (b *bench) startDaemon(ctx context.Context, name string, args ...string) (*daemon, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "daemon.log"))
	if err != nil {
		return nil, err
	}
	d := &daemon{binary: b.binary, dir: dir, socket: filepath.Join(dir, "s.sock"), log: log, exited: make(chan error, 1)}
	args = append([]string{
		"serve", "--data-dir", filepath.Join(dir, "data"), "--socket", d.socket,
		// As many machines are started as are measured. Their memory is the host's.
		"--capacity-overcommit-cpus", "0", "--capacity-overcommit-disk", "0",
	}, args...)
	d.cmd = exec.Command(b.binary, args...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.exited <- d.cmd.Wait() }()
	if d.client, err = client.New(client.Options{Socket: d.socket}); err != nil {
		return nil, err
	}
	return d, d.awaitReady(ctx)
}

func (d *daemon) awaitReady(ctx context.Context) error {
	deadline := time.Now().Add(time.Minute)
	for {
		err := d.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case err := <-d.exited:
			return fmt.Errorf("daemon ended: %w\n%s", err, d.logTail())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("daemon does not answer: %w\n%s", err, d.logTail())
		}
	}
}

func (d *daemon) logTail() []byte {
	b, err := os.ReadFile(d.log.Name())
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-4000):]
}

func (d *daemon) stop() error {
	defer func() { _ = d.log.Close() }()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-d.exited:
		return err
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("daemon did not stop"), d.cmd.Process.Kill())
	}
}

// run runs the command line against the daemon.
func (d *daemon) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.binary, args...)
	cmd.Env = append(os.Environ(), "SANDBOXD_SOCKET="+d.socket)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("sandboxd %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	d.clientCPU += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	return out.String(), nil
}

// memory is a line of the daemon's /proc status, such as VmRSS, in megabytes.
func (d *daemon) memory(line string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s", line)
}

// clockTick is the unit of process times in /proc, in seconds (USER_HZ is 100
// on every Linux that Go runs on).
const clockTick = 0.01

// cpu is the processor time the daemon has used, in seconds.
func (d *daemon) cpu() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The fields behind the command's closing parenthesis begin with the third.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3
	u, err := strconv.ParseFloat(fields[utime], 64)
	if err != nil {
		return 0, err
	}
	s, err := strconv.ParseFloat(fields[stime], 64)
	return (u + s) * clockTick, err
}

// sleep waits, unless the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ready asks the daemon whether it serves.
func (d *daemon) ready(ctx context.Context) error {
	config := d.client.Config()
	hc, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer hc.CloseIdleConnections()
	rq, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := hc.Do(rq)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("readyz: %s", response.Status)
	}
	return nil
}
