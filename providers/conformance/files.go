package conformance

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/providers"
)

func (s *suite) testFiles(t *testing.T) {
	t.Run("WriteFile and ReadFile copy a file of any size and sum, with its mode", s.testRoundTrip)
	t.Run("WriteFile and ReadFile take any name", s.testNames)
	t.Run("WriteFile replaces a file as a whole", s.testReplace)
	t.Run("WriteFile that fails or is cancelled leaves the old file and nothing else", s.testFailedWrite)
	t.Run("WriteFile is ErrNotFound or ErrInvalid for what cannot be written", s.testBadWrite)
	t.Run("ReadFile is ErrNotFound or ErrInvalid for what is no file", s.testBadRead)
}

func (s *suite) testRoundTrip(t *testing.T) {
	id := s.guest(t)
	dir := s.tempDir(t, id)
	for i, mode := range []uint32{0o644, 0o600, 0o755, 0o400} {
		content := pattern([]int{0, 1, 10_000, s.b.Bulk + 1}[i])
		file := fmt.Sprintf("%s/%d", dir, i)
		must(t, "write", s.p.WriteFile(s.ctx(t), id, file, mode, strings.NewReader(content)))
		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
		got := strings.Fields(s.sh(t, id, `sha256sum < "$1"; [ ! -x "$1" ] || echo executable`, file))
		if len(got) < 2 || got[0] != sum {
			t.Errorf("%d bytes have the sum %q in the guest, not %s", len(content), got, sum)
		}
		if x := slices.Contains(got, "executable"); x != (mode&0o111 != 0) {
			t.Errorf("with mode %#o the guest may execute it: %v", mode, x)
		}
		var back bounded
		info, err := s.p.ReadFile(s.ctx(t), id, file, &back)
		must(t, "read", err)
		if info.Size != int64(len(content)) || info.Mode != mode || back.String() != content {
			t.Errorf("%d bytes of mode %#o came back as %+v, equal: %v", len(content), mode, info, back.String() == content)
		}
	}
	s.sh(t, id, `printf 'a\0b' > "$1"`, dir+"/made")
	var back bounded
	if info, err := s.p.ReadFile(s.ctx(t), id, dir+"/made", &back); err != nil || info.Size != 3 || back.String() != "a\x00b" {
		t.Errorf("a file that the guest made came back as %q, %+v, %v", back.String(), info, err)
	}
}

func (s *suite) testNames(t *testing.T) {
	s.detail(t)
	id := s.guest(t)
	dir := s.tempDir(t, id)
	names := []string{"-n", "..x", " two  words ", `'a' "b" \ \n $HOME ` + "`x` $(x) * ? [a] ~ # ! a;b & | < > {}", "line\nbreak ä€😀"}
	for _, name := range names {
		must(t, "write", s.p.WriteFile(s.ctx(t), id, dir+"/"+name, 0o644, strings.NewReader(name)))
		var back bounded
		_, err := s.p.ReadFile(s.ctx(t), id, dir+"/"+name, &back)
		must(t, "read", err)
		if back.String() != name {
			t.Errorf("the file %q came back as %q", name, back.String())
		}
	}
	script := `cd "$1"; shift; ls -A | wc -c; for f do cat "./$f"; echo; done`
	size := len(strings.Join(names, "\n")) + 1
	if got := s.sh(t, id, script, append([]string{dir}, names...)...); got != fmt.Sprintf("%d\n%s", size, strings.Join(names, "\n")) {
		t.Errorf("in the guest the files hold %q", got)
	}
}

func (s *suite) testReplace(t *testing.T) {
	s.detail(t)
	id := s.guest(t)
	file := s.tempDir(t, id) + "/file"
	for _, v := range []struct {
		content string
		mode    uint32
	}{{pattern(s.b.Bulk / 8), 0o600}, {"short", 0o755}, {pattern(10_000), 0o400}, {"", 0o644}} {
		must(t, "write", s.p.WriteFile(s.ctx(t), id, file, v.mode, strings.NewReader(v.content)))
		var back bounded
		info, err := s.p.ReadFile(s.ctx(t), id, file, &back)
		if err != nil || back.String() != v.content || info.Mode != v.mode {
			t.Errorf("%d bytes of mode %#o came back as %+v, %v, equal: %v",
				len(v.content), v.mode, info, err, back.String() == v.content)
		}
	}
}

// cancelling reads without end and cancels a context after some bytes.
type cancelling struct {
	zeros
	after  int
	cancel context.CancelFunc
}

func (c *cancelling) Read(p []byte) (int, error) {
	if c.after -= len(p); c.after < 0 {
		c.cancel()
	}
	c.left = len(p)
	return c.zeros.Read(p)
}

func (s *suite) testFailedWrite(t *testing.T) {
	s.detail(t)
	id := s.guest(t)
	dir := s.tempDir(t, id)
	s.put(t, id, dir+"/file", "old")
	ctx, cancel := context.WithCancel(s.ctx(t))
	defer cancel()
	err := s.p.WriteFile(s.ctx(t), id, dir+"/file", 0o644, &broken{left: 200_000})
	want(t, "write from a broken reader", err, errOwn)
	err = s.p.WriteFile(ctx, id, dir+"/file", 0o644, &cancelling{after: 300_000, cancel: cancel})
	want(t, "write that is cancelled", err, context.Canceled)
	err = s.p.WriteFile(s.ctx(t), id, dir+"/new", 0o644, &broken{left: 200_000})
	want(t, "write of a new file from a broken reader", err, errOwn)
	// What a cancelled call leaves may be cleared away a little later.
	eventually(t, s.b.Limits.Call, func() string {
		if got := s.sh(t, id, `ls -A "$1"; cat "$1/file"`, dir); got != "file\nold" {
			return fmt.Sprintf("the directory lists, and the old file holds, %q", got)
		}
		return ""
	})
}

func (s *suite) testBadWrite(t *testing.T) {
	s.detail(t)
	id := s.guest(t)
	dir := s.tempDir(t, id)
	for name, tc := range map[string]struct {
		path string
		mode uint32
		kind error
	}{
		"a relative path":            {"file", 0o644, providers.ErrInvalid},
		"no path":                    {"", 0o644, providers.ErrInvalid},
		"a zero byte":                {dir + "/a\x00b", 0o644, providers.ErrInvalid},
		"a directory":                {dir, 0o644, providers.ErrInvalid},
		"the root":                   {"/", 0o644, providers.ErrInvalid},
		"a directory that is not":    {dir + "/no/file", 0o644, providers.ErrNotFound},
		"a set-user-ID bit":          {dir + "/file", 0o4755, providers.ErrInvalid},
		"a mode that has other bits": {dir + "/file", 1 << 20, providers.ErrInvalid},
	} {
		err := s.p.WriteFile(s.ctx(t), id, tc.path, tc.mode, strings.NewReader("content"))
		want(t, name, err, tc.kind)
	}
	err := s.p.WriteFile(s.ctx(t), id, "/proc/file", 0o644, strings.NewReader("content"))
	want(t, "where no files can be made", err, providers.ErrInvalid, providers.ErrNotFound)
	if got := s.sh(t, id, `ls -A "$1"`, dir); got != "" {
		t.Errorf("refused writes left %q", got)
	}
}

func (s *suite) testBadRead(t *testing.T) {
	s.detail(t)
	id := s.guest(t)
	dir := s.tempDir(t, id)
	for name, tc := range map[string]struct {
		path string
		kind error
	}{
		"a relative path":          {"etc/hostname", providers.ErrInvalid},
		"no path":                  {"", providers.ErrInvalid},
		"a file that is not there": {dir + "/no", providers.ErrNotFound},
		"a directory":              {dir, providers.ErrInvalid},
		"a device without end":     {"/dev/zero", providers.ErrInvalid},
	} {
		var out bounded
		_, err := s.p.ReadFile(s.ctx(t), id, tc.path, &out)
		want(t, name, err, tc.kind)
		if out.String() != "" {
			t.Errorf("%s: %d bytes were read", name, len(out.String()))
		}
	}
	s.put(t, id, dir+"/file", pattern(s.b.Bulk/4))
	_, err := s.p.ReadFile(s.ctx(t), id, dir+"/file", &broken{left: 1000})
	want(t, "read into a broken writer", err, errOwn)
	if _, err := s.p.ReadFile(s.ctx(t), id, dir+"/file", io.Discard); errors.Is(err, errOwn) {
		t.Error("the error of one writer came back to another")
	}
}
