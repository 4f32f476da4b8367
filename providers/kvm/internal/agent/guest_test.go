package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/providers/internal/guestcall"
)

// localGuest is an agent whose guest is this host: it runs the scripts that
// guests run, with the shell that is here.
type localGuest struct {
	t    testing.TB
	wrap []string // a command that runs the commands

	mu      sync.Mutex
	running map[int64]*process
	files   map[int64]*os.File
	next    int64
	deaf    bool // does not answer
	log     []string
	dirs    map[string]bool // private directories of its commands
}

type process struct {
	cmd      *exec.Cmd
	out, err bytes.Buffer
	done     chan struct{}
}

func newLocalGuest(t testing.TB) *localGuest {
	g := &localGuest{t: t, running: map[int64]*process{}, files: map[int64]*os.File{}, dirs: map[string]bool{}}
	t.Cleanup(g.wantNothingLeft)
	t.Cleanup(func() {
		for _, p := range g.running {
			_ = p.cmd.Process.Kill()
			<-p.done
		}
		for _, f := range g.files {
			_ = f.Close()
		}
	})
	return g
}

var errDeaf = errors.New("no answer")

// send is the Transport.
func (g *localGuest) send(ctx context.Context, command string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.deaf {
		return "", errDeaf
	}
	var c struct {
		Execute   string
		Arguments json.RawMessage
	}
	if err := json.Unmarshal([]byte(command), &c); err != nil {
		return "", err
	}
	g.log = append(g.log, c.Execute)
	result, err := g.execute(c.Execute, c.Arguments)
	if err != nil {
		return "", fmt.Errorf("%w: %w", guestcall.ErrRefused, err)
	}
	b, err := json.Marshal(map[string]any{"return": result})
	return string(b), err
}

func (g *localGuest) execute(name string, raw json.RawMessage) (any, error) {
	var a struct {
		Path   string
		Arg    []string
		Input  []byte `json:"input-data"`
		PID    int64
		Mode   string
		Handle int64
		Count  int
		Data   []byte `json:"buf-b64"`
	}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, err
		}
	}
	switch name {
	case "guest-ping":
		return struct{}{}, nil
	case "guest-exec":
		return g.exec(a.Path, a.Arg, a.Input)
	case "guest-exec-status":
		return g.status(a.PID)
	case "guest-file-open":
		flags := map[string]int{"r": os.O_RDONLY, "w": os.O_WRONLY | os.O_CREATE | os.O_TRUNC}[a.Mode]
		f, err := os.OpenFile(a.Path, flags, 0o666)
		if err != nil {
			return nil, err
		}
		g.next++
		g.files[g.next] = f
		return g.next, nil
	case "guest-file-read":
		b := make([]byte, a.Count)
		n, err := io.ReadFull(g.files[a.Handle], b)
		return map[string]any{"count": n, "buf-b64": b[:n], "eof": err != nil}, nil
	case "guest-file-write":
		n, err := g.files[a.Handle].Write(a.Data)
		return map[string]any{"count": n, "eof": false}, err
	case "guest-file-close":
		f := g.files[a.Handle]
		delete(g.files, a.Handle)
		return struct{}{}, f.Close()
	}
	return nil, fmt.Errorf("the command %s has not been found", name)
}

func (g *localGuest) exec(path string, args []string, input []byte) (any, error) {
	for _, arg := range args {
		for _, dir := range privateDir.FindAllString(arg, -1) {
			g.dirs[dir] = true
		}
	}
	command := slices.Concat(g.wrap, []string{path}, args)
	p := &process{cmd: exec.Command(command[0], command[1:]...), done: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = bytes.NewReader(input), &p.out, &p.err
	p.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	pid := int64(p.cmd.Process.Pid)
	g.running[pid] = p
	return map[string]int64{"pid": pid}, nil
}

func (g *localGuest) status(pid int64) (any, error) {
	p := g.running[pid]
	if p == nil {
		return nil, fmt.Errorf("PID %d does not exist", pid)
	}
	select {
	case <-p.done:
	default:
		return map[string]bool{"exited": false}, nil
	}
	delete(g.running, pid)
	r := map[string]any{"exited": true, "out-data": p.out.Bytes(), "err-data": p.err.Bytes()}
	if w := p.cmd.ProcessState.Sys().(syscall.WaitStatus); w.Signaled() {
		r["signal"] = int(w.Signal())
	} else {
		r["exitcode"] = w.ExitStatus()
	}
	return r, nil
}

var privateDir = regexp.MustCompile(`/tmp/\.sandboxd-[0-9a-f]{32}`)

// left lists the private directories of its commands that are there. Others' guests may
// be this host, too.
func (g *localGuest) left() (there []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for dir := range g.dirs {
		if _, err := os.Lstat(dir); err == nil {
			there = append(there, dir)
		}
	}
	return there
}

// wantNothingLeft fails a test whose commands leave anything.
func (g *localGuest) wantNothingLeft() {
	deadline := time.Now().Add(time.Minute) // the last removal is not waited for by anybody
	for left := g.left(); len(left) > 0; left = g.left() {
		if time.Now().After(deadline) {
			g.t.Errorf("left in /tmp: %q", left)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
