package guestscript_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/internal/guestscript"
)

// errUnknown stands for an error that is none of package guestcall's.
var errUnknown = errors.New("not understood")

func check(t *testing.T, what string, got, want error) {
	t.Helper()
	kinds := []error{guestcall.ErrRefused, guestcall.ErrBadRequest, guestcall.ErrNoProgram, guestcall.ErrNoFile, guestcall.ErrGuestLacks, guestcall.ErrCaller}
	for _, kind := range kinds {
		if errors.Is(got, kind) != errors.Is(want, kind) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	if (got == nil) != (want == nil) || got != nil && strings.ContainsAny(got.Error(), "\n\x1b") {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestExitCode(t *testing.T) {
	for report, want := range map[string]struct {
		code int
		err  error
	}{
		"done 0": {0, nil}, "done 255": {255, nil}, "done 256": {0, errUnknown}, "done -1": {0, errUnknown}, "done": {0, errUnknown},
		"": {0, errUnknown}, "other": {0, errUnknown}, "\x1b[31m\n": {0, errUnknown}, "refused": {0, errUnknown}, "refused \n": {0, errUnknown},
		"refused missing": {0, guestcall.ErrNoProgram}, "refused denied": {0, guestcall.ErrBadRequest},
		"refused directory": {0, guestcall.ErrBadRequest}, "refused user": {0, guestcall.ErrBadRequest},
		"refused su": {0, guestcall.ErrBadRequest}, "refused temp": {0, guestcall.ErrRefused},
	} {
		code, err := guestscript.ExitCode(report)
		if code != want.code {
			t.Errorf("%q: %d", report, code)
		}
		check(t, report, err, want.err)
	}
}

func TestOutcomes(t *testing.T) {
	for word, want := range map[string]error{
		"ok": nil, "missing": guestcall.ErrNoFile, "directory": guestcall.ErrBadRequest, "denied": guestcall.ErrBadRequest,
		"full": guestcall.ErrRefused, "": errUnknown, "\x1b\n": errUnknown,
	} {
		check(t, "put "+word, guestscript.PutOutcome(word, "/a"), want)
	}
	for word, want := range map[string]error{"ok": nil, "user": guestcall.ErrBadRequest, "home": guestcall.ErrRefused, "": errUnknown} {
		check(t, "keys "+word, guestscript.KeysOutcome(word, "me"), want)
	}
	for line, want := range map[string]error{
		"ok": nil, "root": guestcall.ErrRefused, "directory": guestcall.ErrBadRequest, "unsupported": guestcall.ErrGuestLacks,
		"failed mount: no such device\x1b": guestcall.ErrRefused, "": errUnknown,
	} {
		check(t, "mount "+line, guestscript.SharingOf(v1.ProviderKVM).Outcome(line, v1.SharedFolder{Name: "src"}), want)
	}
}

// TestMountArguments: what reaches mount is never left to the guest.
func TestMountArguments(t *testing.T) {
	yes := true
	f := v1.SharedFolder{Name: "src", MountPath: "/src dir", ReadOnly: &yes}
	for provider, want := range map[v1.ProviderName]string{
		v1.ProviderKVM:        "9p|trans=virtio,version=9p2000.L,msize=262144,nosuid,nodev,ro|9pnet_virtio 9p|src|/src dir",
		v1.ProviderVirtualBox: "vboxsf|nosuid,nodev,ro|vboxsf|src|/src dir",
	} {
		if got := strings.Join(guestscript.SharingOf(provider).Arguments(f), "|"); got != want {
			t.Errorf("%s: %q", provider, got)
		}
	}
}

// TestMountIsDone: a folder that is mounted already is left as it is.
func TestMountIsDone(t *testing.T) {
	mounts, err := os.ReadFile("/proc/mounts")
	f := strings.Fields(string(mounts))
	if err != nil || len(f) < 3 {
		t.Skip("the host shows no mounts")
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", guestscript.Mount, "mount", f[2], "none", "", f[0], f[1]).CombinedOutput()
	if err != nil || string(out) != "ok\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// get runs the script Get on a path and gives what it prints to a File, in pieces.
func get(t *testing.T, path string, piece int) (string, providers.FileInfo, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", guestscript.Get, "get", path, strconv.Itoa(1<<62)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return take(path, out, piece)
}

func take(path string, printed []byte, piece int) (string, providers.FileInfo, error) {
	var content bytes.Buffer
	f := guestscript.NewFile(path, &content)
	for len(printed) > 0 {
		n := min(piece, len(printed))
		if err := f.Deliver(printed[:n]); err != nil {
			return "", providers.FileInfo{}, err
		}
		printed = printed[n:]
	}
	info, err := f.End()
	return content.String(), info, err
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, content := range []string{"", "\n", "some\nlines\x00", strings.Repeat("0123456789", 1000)} {
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, 0o640)); err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{1, 7, 1 << 20} {
			got, info, err := get(t, path, piece)
			if err != nil || got != content || info != (providers.FileInfo{Size: int64(len(content)), Mode: 0o640}) {
				t.Errorf("%.20q came as %.20q, %+v, %v", content, got, info, err)
			}
		}
	}
	_, _, err := get(t, path+".none", 3)
	check(t, "none", err, guestcall.ErrNoFile)
	_, _, err = get(t, filepath.Dir(path), 3)
	check(t, "a folder", err, guestcall.ErrBadRequest)
}

// FuzzFile: whatever a guest prints, no more comes out than it has announced.
func FuzzFile(f *testing.F) {
	for _, printed := range []string{
		"ok 3 644\nabc", "ok 3 644\nab", "ok 3 644\nabcd", "ok -1 644\n", "ok 3 9\nabc", "ok 99999999999999999999 644\n", "denied\n", "\x1b[31m",
		strings.Repeat("ok ", 200), "ok 0 7777\n",
	} {
		f.Add(printed, 2)
	}
	f.Fuzz(func(t *testing.T, printed string, piece int) {
		content, info, err := take("/a", []byte(printed), max(1, piece))
		if err == nil && (int64(len(content)) != info.Size || info.Mode > 0o777 || !strings.HasSuffix(printed, "\n"+content)) {
			t.Errorf("%q came as %q, %+v", printed, content, info)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("the message %q", err)
		}
	})
}
