package guestcall_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
)

func TestKind(t *testing.T) {
	own := errors.New("own")
	kinded := providers.Errorf(providers.ErrBusy, "machine x", "why")
	for name, tc := range map[string]struct{ err, kind error }{
		"refused":      {guestcall.ErrRefused, providers.ErrUnavailable},
		"bad request":  {guestcall.ErrBadRequest, providers.ErrInvalid},
		"no program":   {guestcall.ErrNoProgram, providers.ErrNotFound},
		"no file":      {guestcall.ErrNoFile, providers.ErrNotFound},
		"lacks":        {guestcall.ErrGuestLacks, providers.ErrUnsupported},
		"anything":     {own, providers.ErrUnavailable},
		"has a kind":   {kinded, providers.ErrBusy},
		"the caller's": {fmt.Errorf("%w: %w", guestcall.ErrCaller, guestcall.ErrNoFile), nil},
		"a context's":  {context.DeadlineExceeded, providers.ErrUnavailable}, // not the caller's
	} {
		err := guestcall.Kind(t.Context(), "machine y", fmt.Errorf("it: %w", tc.err))
		if !errors.Is(err, tc.err) || providers.KindOf(err) != tc.kind {
			t.Errorf("%s: %v of kind %v, want %v", name, err, providers.KindOf(err), tc.kind)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := guestcall.Kind(over, "machine y", fmt.Errorf("%w: %w", guestcall.ErrRefused, context.Canceled)); err != context.Canceled { //nolint:errorlint // nothing around it
		t.Errorf("canceled: %v", err)
	}
	if err := guestcall.Kind(over, "machine y", nil); err != nil {
		t.Error(err)
	}
}

func TestInput(t *testing.T) {
	own := errors.New("own")
	if _, err := io.ReadAll(guestcall.Input(t.Context(), iotest.ErrReader(own))); !errors.Is(err, own) || !errors.Is(err, guestcall.ErrCaller) {
		t.Errorf("the reader's error came out as %v", err)
	}
	if b, err := io.ReadAll(guestcall.Input(t.Context(), strings.NewReader("text"))); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := io.ReadAll(guestcall.Input(over, strings.NewReader("text"))); !errors.Is(err, context.Canceled) || errors.Is(err, guestcall.ErrCaller) {
		t.Errorf("canceled: %v", err)
	}
}

func TestPrintable(t *testing.T) {
	if got := guestcall.Printable("a\x1b[31m\nb\x00  c"); got != "a [31m b c" {
		t.Errorf("got %q", got)
	}
	if got := guestcall.Printable(strings.Repeat("é", 1000)); len([]rune(got)) > 210 {
		t.Errorf("%d characters", len([]rune(got)))
	}
}

func TestCheckExec(t *testing.T) {
	long := strings.Repeat("x", guestcall.MaxArguments)
	for name, tc := range map[string]struct {
		req providers.ExecRequest
		ok  bool
	}{
		"everything": {providers.ExecRequest{
			Command: []string{"a b", "", "\xff"}, User: "me.x-1", Dir: "/", Env: []string{"A=", "_b1=c=d"}, Timeout: 1, MaxOutput: 1,
		}, true},
		"as long as can be":       {providers.ExecRequest{Command: []string{long[:len(long)-2]}}, true},
		"longer":                  {providers.ExecRequest{Command: []string{long[:len(long)-1]}}, false},
		"longer with variables":   {providers.ExecRequest{Command: []string{"a"}, Env: []string{"A=" + long}}, false},
		"no command":              {providers.ExecRequest{}, false},
		"an empty command":        {providers.ExecRequest{Command: []string{"", "a"}}, false},
		"NUL in an argument":      {providers.ExecRequest{Command: []string{"a", "\x00"}}, false},
		"NUL in a variable":       {providers.ExecRequest{Command: []string{"a"}, Env: []string{"A=\x00"}}, false},
		"NUL in the directory":    {providers.ExecRequest{Command: []string{"a"}, Dir: "/\x00"}, false},
		"no variable":             {providers.ExecRequest{Command: []string{"a"}, Env: []string{"A"}}, false},
		"a bad variable":          {providers.ExecRequest{Command: []string{"a"}, Env: []string{"a b=c"}}, false},
		"a user with options":     {providers.ExecRequest{Command: []string{"a"}, User: "-c"}, false},
		"a relative directory":    {providers.ExecRequest{Command: []string{"a"}, Dir: "usr"}, false},
		"a negative time":         {providers.ExecRequest{Command: []string{"a"}, Timeout: -time.Second}, false},
		"a negative output limit": {providers.ExecRequest{Command: []string{"a"}, MaxOutput: -1}, false},
	} {
		if err := guestcall.CheckExec(tc.req); (err == nil) != tc.ok || err != nil && !errors.Is(err, guestcall.ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckWrite(t *testing.T) {
	for p, ok := range map[string]bool{
		"/a": true, "a": false, "": false, "/a\x00": false, "/" + strings.Repeat("a", 4095): true, "/" + strings.Repeat("a", 4096): false,
	} {
		read, write := guestcall.CheckRead(p), guestcall.CheckWrite(p, 0o777)
		if (read == nil) != ok || (write == nil) != ok || !ok && !errors.Is(read, guestcall.ErrBadRequest) {
			t.Errorf("%.20q: %v, %v", p, read, write)
		}
	}
	if err := guestcall.CheckWrite("/a", 0o1777); !errors.Is(err, guestcall.ErrBadRequest) {
		t.Error(err)
	}
}

// guest records what is set up in it.
type guest struct {
	set string
	err error
}

func (g *guest) SetKeys(_ context.Context, user string, keys []string) error {
	g.set += fmt.Sprintf("%s:%s ", user, strings.Join(keys, ","))
	return g.err
}

func (g *guest) Mount(_ context.Context, f v1.SharedFolder) error {
	g.set += f.Name + " "
	return g.err
}

func TestConfigure(t *testing.T) {
	yes, no := true, false
	src, out := v1.SharedFolder{Name: "src", ReadOnly: &yes}, v1.SharedFolder{Name: "out", ReadOnly: &no}
	offered := map[string]bool{"src": true, "out": false}
	own := errors.New("own")
	for name, tc := range map[string]struct {
		cfg  providers.GuestConfig
		err  error // of the guest
		want error
		set  string
	}{
		"nothing":    {},
		"all":        {cfg: providers.GuestConfig{User: "u", SSHAuthorizedKeys: []string{"a", "b"}, Mounts: []v1.SharedFolder{src, out}}, set: "u:a,b src out "},
		"no keys":    {cfg: providers.GuestConfig{User: "u"}, set: "u: "},
		"no user":    {cfg: providers.GuestConfig{SSHAuthorizedKeys: []string{"a"}}, want: guestcall.ErrBadRequest},
		"no folder":  {cfg: providers.GuestConfig{User: "u", Mounts: []v1.SharedFolder{{Name: "other"}}}, want: guestcall.ErrBadRequest},
		"read-only":  {cfg: providers.GuestConfig{User: "u", Mounts: []v1.SharedFolder{{Name: "src", ReadOnly: &no}}}, want: guestcall.ErrBadRequest},
		"keys fail":  {cfg: providers.GuestConfig{User: "u", Mounts: []v1.SharedFolder{src}}, err: own, want: own, set: "u: "},
		"mount fail": {cfg: providers.GuestConfig{Mounts: []v1.SharedFolder{src, out}}, err: own, want: own, set: "src "},
	} {
		g := &guest{err: tc.err}
		if err := guestcall.Configure(t.Context(), g, tc.cfg, offered); !errors.Is(err, tc.want) || g.set != tc.set {
			t.Errorf("%s: %v, and the guest has %q", name, err, g.set)
		}
	}
	for _, key := range []string{"a\nb", "a\r", "a\x00"} {
		if err := guestcall.CheckKeys("u", []string{"fine", key}); !errors.Is(err, guestcall.ErrBadRequest) {
			t.Errorf("key %q: %v", key, err)
		}
	}
	if err := errors.Join(guestcall.CheckKeys("u", []string{"a key", ""}), guestcall.CheckKeys("u", nil)); err != nil {
		t.Error(err)
	}
	if err := guestcall.CheckKeys("-u", nil); !errors.Is(err, guestcall.ErrBadRequest) {
		t.Error(err)
	}
}
