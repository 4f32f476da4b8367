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
	socket := filepath.Join(dir, "s.sock")
	args = append([]string{
		"serve", "--data-dir", filepath.Join(dir, "data"), "--socket", socket,
		// As many machines are started as are measured. Their memory is the host's.
		"--capacity-overcommit-cpus", "0", "--capacity-overcommit-disk", "0",
	}, args...)
	return start(ctx, dir, socket, exec.Command(b.binary, args...))
}

// start starts a server and waits until it answers on its socket.
func start(ctx context.Context, dir, socket string, cmd *exec.Cmd) (*daemon, error) {
	log, err := os.Create(filepath.Join(dir, "daemon.log"))
	if err != nil {
		return nil, err
	}
	d := &daemon{binary: cmd.Path, dir: dir, socket: socket, cmd: cmd, log: log, exited: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.exited <- cmd.Wait() }()
	if d.client, err = client.New(client.Options{Socket: socket}); err != nil {
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
func (d *daemon) memory(line string) (float64, error) { return d.process().memory(line) }

// cpu is the processor time the daemon has used, in seconds.
func (d *daemon) cpu() (float64, error) { return d.process().cpu() }

func (d *daemon) process() process { return process(d.cmd.Process.Pid) }

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
