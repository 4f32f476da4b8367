package build_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/providers"
)

// local stands for a guest: files are kept, and commands run on this host but for
// the cleaning, which has no business there.
type local struct {
	t       *testing.T
	dir     string
	modes   map[string]uint32
	cleaned bool
	refuse  error
	waits   int
}

func (l *local) path(name string) string {
	return filepath.Join(l.dir, strings.ReplaceAll(name, "/", "_"))
}

func (l *local) WriteFile(_ context.Context, name string, mode uint32, r io.Reader) error {
	if l.refuse != nil && !strings.HasPrefix(name, "/tmp/") {
		return l.refuse
	}
	data, err := io.ReadAll(r)
	must(l.t, err)
	l.modes[name] = mode
	return os.WriteFile(l.path(name), data, 0o600)
}

func (l *local) Exec(ctx context.Context, req providers.ExecRequest) (providers.ExecResult, error) {
	if l.waits > 0 {
		l.waits--
		return providers.ExecResult{}, providers.Errorf(providers.ErrUnavailable, "guest", "it boots")
	}
	last := req.Command[len(req.Command)-1]
	if strings.HasSuffix(last, "-clean") && req.Command[0] != "rm" {
		l.cleaned = true
		return providers.ExecResult{}, exec.Command("sh", "-n", l.path(last)).Run() // it is at least a script
	}
	args := append([]string{}, req.Command[1:]...)
	for i, a := range args {
		if strings.HasPrefix(a, "/tmp/") {
			args[i] = l.path(a)
		}
	}
	cmd := exec.CommandContext(ctx, req.Command[0], args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = req.Env, req.Stdout, req.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return providers.ExecResult{ExitCode: exit.ExitCode()}, nil
	}
	if err != nil {
		return providers.ExecResult{}, providers.Errorf(providers.ErrNotFound, "guest", "%w", err)
	}
	return providers.ExecResult{}, nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, g *local, steps ...v1.ProvisionStep) (log string, reports []string, err error) {
	t.Helper()
	g.t, g.dir, g.modes = t, t.TempDir(), map[string]uint32{}
	var out strings.Builder
	r := build.Run{Guest: g, Steps: steps, Agent: g.waits == 0, Patience: time.Minute, Log: &out}
	err = r.Do(t.Context(), func(p build.Progress) { reports = append(reports, p.String()) })
	return out.String(), reports, err
}

func TestSteps(t *testing.T) {
	g := &local{}
	log, reports, err := run(t, g,
		v1.ProvisionStep{Name: "file", File: &v1.ProvisionFile{Path: "/etc/motd", Content: "hello", Mode: "0640"}},
		v1.ProvisionStep{Name: "plain", Script: "echo \"plain $HOME\"; cat"},
		v1.ProvisionStep{Name: "own", Script: "#!/usr/bin/env -S sh -e\necho own\n"},
	)
	must(t, err)
	if want := "==> step 1 of 3: file\n==> step 2 of 3: plain\nplain /root\n==> step 3 of 3: own\nown\n"; !strings.HasPrefix(log, want) {
		t.Errorf("log %q, want %q", log, want)
	}
	if len(reports) != 4 || reports[1] != "step 2 of 3: plain" {
		t.Errorf("reports: %q", reports)
	}
	if g.modes["/etc/motd"] != 0o640 || !g.cleaned {
		t.Errorf("modes %v, cleaned %v", g.modes, g.cleaned)
	}
	left, _ := filepath.Glob(filepath.Join(g.dir, "_tmp_*"))
	if len(left) != 0 {
		t.Errorf("scripts are left in the guest: %q", left)
	}
}

func TestStepsFail(t *testing.T) {
	tests := []struct {
		name    string
		guest   local
		step    v1.ProvisionStep
		message string
		code    int32
	}{
		{"a script", local{}, v1.ProvisionStep{Name: "a", Script: "echo one; printf '\\033[31mtwo\\r\\n'; exit 5"}, `step "a" ended with exit code 5: one / [31mtwo`, 5},
		{"much output", local{}, v1.ProvisionStep{Name: "a", Script: "for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i of the output, which is a long one indeed, longer than what is quoted; done; exit 1"}, "line 10 of", 1},
		{"no interpreter", local{}, v1.ProvisionStep{Name: "a", Script: "#!/no/such/thing\n"}, `step "a" cannot be run`, 0},
		{"a file", local{refuse: providers.Errorf(providers.ErrNotFound, "guest", "no such directory")}, v1.ProvisionStep{Name: "a", File: &v1.ProvisionFile{Path: "/no/file"}}, "file /no/file cannot be written", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := run(t, &tt.guest, tt.step, v1.ProvisionStep{Name: "never", Script: "echo never"})
			var f *build.Failure
			if !errors.As(err, &f) || f.Step != "a" || !strings.Contains(f.Message, tt.message) || len(f.Message) > 600 {
				t.Fatalf("got %v", err)
			}
			if tt.code != 0 && (f.ExitCode == nil || *f.ExitCode != tt.code) || tt.code == 0 && f.ExitCode != nil {
				t.Errorf("exit code %v, want %d", f.ExitCode, tt.code)
			}
			if tt.guest.cleaned {
				t.Error("cleaned up behind a step that failed")
			}
		})
	}
	_, _, err := run(t, &local{refuse: providers.Errorf(providers.ErrUnavailable, "guest", "lost")}, v1.ProvisionStep{Name: "a", File: &v1.ProvisionFile{Path: "/etc/x"}})
	if f := (*build.Failure)(nil); errors.As(err, &f) || !errors.Is(err, providers.ErrUnavailable) {
		t.Errorf("a guest that is lost is not the step's fault: %v", err)
	}
}

func TestGuestWithoutAgentIsAwaited(t *testing.T) {
	g := &local{waits: 1}
	if _, reports, err := run(t, g); err != nil || !g.cleaned || reports[0] != "waiting for the guest's ssh server" {
		t.Errorf("%v, reports %q", err, reports)
	}
}

func TestLogs(t *testing.T) {
	logs := build.NewLogs(filepath.Join(t.TempDir(), "builds"))
	const id = "11111111-2222-3333-4444-555555555555"
	read := func() string {
		f, err := logs.Open(t.Context(), id, false)
		must(t, err)
		defer func() { _ = f.Close() }()
		b, err := io.ReadAll(f)
		must(t, err)
		return string(b)
	}
	if _, err := logs.Open(t.Context(), id, false); !errors.Is(err, providers.ErrNotFound) {
		t.Errorf("no log yet: %v", err)
	}
	if _, err := logs.Create("../x"); !errors.Is(err, providers.ErrInvalid) {
		t.Errorf("a path as an ID: %v", err)
	}
	log, err := logs.Create(id)
	must(t, err)
	follow, err := logs.Open(t.Context(), id, true)
	must(t, err)
	all := make(chan string)
	go func() {
		b, _ := io.ReadAll(follow)
		all <- string(b)
	}()
	var want strings.Builder
	for i := range 100 {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		_, err := log.Write([]byte(line))
		must(t, err)
	}
	if got := read(); got != want.String() {
		t.Errorf("while it is written: %d bytes, want %d", len(got), want.Len())
	}
	must(t, log.Close())
	if got := <-all; got != want.String() {
		t.Errorf("followed: %d bytes, want %d", len(got), want.Len())
	}

	log, err = logs.Create(id)
	must(t, err)
	chunk := []byte(strings.Repeat("x", 300<<10) + "\n")
	for range 20 {
		_, err := log.Write(chunk)
		must(t, err)
	}
	_, err = log.Write([]byte("the end\n"))
	must(t, err)
	must(t, log.Close())
	if got := read(); len(got) > 2*build.MaxLog || len(got) < build.MaxLog || !strings.HasSuffix(got, "x\nthe end\n") {
		t.Errorf("a long log has %d bytes and ends with %q", len(got), got[len(got)-10:])
	}
	must(t, logs.Remove(id))
	must(t, logs.Remove(id))
}
