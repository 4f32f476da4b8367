package virtualbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/guestcall"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/guestcontrol"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

const (
	// readyIn is how long a guest whose Guest Additions are up may take until
	// they take commands: a second where it is fast, half a minute where it is
	// interpreted on a busy host.
	readyIn = 3 * time.Minute
	// unusableIn is how long a guest may end every single session until it is
	// believed to go on like that: one that was too slow for VirtualBox ends later sessions by
	// the end of the one that VirtualBox had given up.
	unusableIn = time.Minute
	// readyPause is between the first attempts, readySlowest between later ones:
	// each takes time from a guest that has too little.
	readyPause   = 300 * time.Millisecond
	readySlowest = 3 * time.Second
	// sessions is how many commands one guest is given at a time. Each has a
	// process of its own on both sides.
	sessions = 8
)

// guest is how package guestcontrol reaches one machine.
type guest struct {
	p  *Provider
	id types.UID
	of record
}

// Control implements guestcontrol.Guest. The password goes by a file that only
// this user can read, for as long as the call takes.
func (g guest) Control(ctx context.Context, call guestcontrol.Call) error {
	if err := g.p.awaitRestored(ctx, g.of); err != nil {
		return err
	}
	if !call.Urgent {
		begun, leave, err := g.p.guest.enter(ctx, g.id)
		if err != nil {
			return err
		}
		defer leave()
		if call.Stdout != nil {
			call.Stdout = firstWrite{call.Stdout, begun}
		}
	}
	if call.Given != nil {
		call.Given()
	}
	login, err := g.p.loginOf(ctx, g.of)
	if err != nil {
		return err
	}
	password, err := g.p.passwordFile(login)
	if err != nil {
		return g.p.fileError(machineObject(g.id), err)
	}
	defer func() { _ = os.Remove(password) }()
	args := append([]string{"guestcontrol", string(g.id), call.Verb, "--username", login.User, "--passwordfile", password}, call.Args...)
	entered := time.Now()
	answered := entered // the last time that the guest did anything but end a session
	for wait := readyPause; ; wait = min(2*wait, readySlowest) {
		_, err := g.p.vbox.Run(ctx, vboxmanage.Call{
			Object: machineObject(g.id), Args: args, Interruptible: true, Stdout: call.Stdout, Stderr: call.Stderr,
		})
		err = controlError(err)
		switch {
		case isClosed(call.Started):
			return err // whatever it is: done twice is worse than failed once
		case errors.Is(err, guestcontrol.ErrNotReady):
			answered = time.Now()
		case errors.Is(err, guestcontrol.ErrUnusable) && time.Since(answered) <= unusableIn:
		default:
			return err
		}
		if time.Since(entered) > readyIn {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// firstWrite tells when something is written for the first time.
type firstWrite struct {
	io.Writer
	tell func()
}

func (w firstWrite) Write(p []byte) (int, error) {
	w.tell()
	return w.Writer.Write(p)
}

// loginOf asks who commands run as.
func (p *Provider) loginOf(ctx context.Context, r record) (providers.Login, error) {
	object := machineObject(r.ID)
	if p.opts.Logins == nil {
		return providers.Login{}, providers.Errorf(providers.ErrUnsupported, object, "VirtualBox's guest control needs a user and a password, and nobody knows them")
	}
	login, err := p.opts.Logins.LoginOf(ctx, r.Namespace, r.Name, r.ID)
	switch {
	case err != nil:
		return login, err
	case login.User == "" || strings.HasPrefix(login.User, "-") || strings.ContainsAny(login.Password, "\r\n\x00"):
		return login, providers.Errorf(providers.ErrInvalid, object, "the guest's user is empty or no name, or the password has more than one line")
	}
	return login, nil
}

// passwordFile writes a password to a new file.
func (p *Provider) passwordFile(l providers.Login) (string, error) {
	f, err := os.CreateTemp(p.data.Root, ".login-*") // of mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(l.Password)
	if err := errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// phrases are what VBoxManage says of guests, in English as it is asked to. The
// codes tell nothing: for most of it there is VBOX_E_IPRT_ERROR, and
// VBOX_E_GSTCTL_GUEST_ERROR stands for Guest Additions that are not ready and for
// a command that was lost in its middle. What is waited for, as not ready, was
// said before anything was started.
var phrases = []struct {
	text string
	err  error
}{
	{"not able to logon on guest", guestcontrol.ErrLogin},
	{"not installed or not ready", guestcontrol.ErrNotReady},
	{"execution service is not ready", guestcontrol.ErrNotReady},
	{"current status is: starting", guestcontrol.ErrNotReady}, // it gave up on a slow guest after 30 s
	{"VERR_DUPLICATE", guestcontrol.ErrNotReady},              // and what it gave up on is still there
	{"current status is: terminated", guestcontrol.ErrUnusable},
	{`No such file or directory "/bin/sh"`, guestcall.ErrGuestLacks},
}

// controlError finds out what a failure of guest control means.
func controlError(err error) error {
	var f *vboxmanage.Failure
	if !errors.As(err, &f) {
		return err
	}
	for _, phrase := range phrases {
		if strings.Contains(f.Message, phrase.text) {
			return fmt.Errorf("%w (%s)", phrase.err, f.Message)
		}
	}
	return err
}

// inGuest does something inside a machine that runs and whose Guest Additions
// are up. It ends when the machine goes off.
func (p *Provider) inGuest(ctx context.Context, id types.UID, do func(context.Context, *guestcontrol.Client, machine) error) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	object := machineObject(id)
	m, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	if m.power != providers.PowerRunning {
		return providers.Errorf(providers.ErrBusy, object, "it is %s: only a running machine can be reached inside", m.power)
	}
	if agentOf(m) != providers.AgentConnected {
		return providers.Errorf(providers.ErrUnavailable, object, "its Guest Additions do not answer: the guest is still booting, or has none")
	}
	return p.visit(ctx, m, do)
}

// visit does something inside a machine until it goes off or the provider is
// closed.
func (p *Provider) visit(ctx context.Context, m machine, do func(context.Context, *guestcontrol.Client, machine) error) error {
	object := machineObject(m.id)
	inside, done := p.guest.attend(ctx, m.id, m.asked)
	defer done()
	err := do(inside, guestcontrol.New(guest{p, m.id, m.record}, p.data.Root), m)
	if err != nil && ctx.Err() == nil && inside.Err() != nil {
		return providers.Errorf(providers.ErrUnavailable, object, "it went off, or sandboxd is stopping")
	}
	return guestError(ctx, object, err)
}

// guestError gives an error of package guestcontrol a kind; see guestcall.Kind.
func guestError(ctx context.Context, object string, err error) error {
	switch {
	case errors.Is(err, guestcontrol.ErrLogin):
		err = providers.Errorf(providers.ErrInvalid, object, "%w: correct the Secret that the image's guest.passwordSecretRef names", err)
	case errors.Is(err, guestcontrol.ErrUnusable):
		err = providers.Errorf(providers.ErrUnavailable, object, "%w; it cannot be used any more: stop the sandbox and start it again", err)
	}
	return guestcall.Kind(ctx, object, err)
}

// Exec implements providers.Guests.
func (p *Provider) Exec(ctx context.Context, id types.UID, req providers.ExecRequest) (providers.ExecResult, error) {
	var result providers.ExecResult
	reached := false
	err := p.inGuest(ctx, id, func(ctx context.Context, c *guestcontrol.Client, _ machine) (err error) {
		reached = true
		result, err = c.Exec(ctx, req)
		return err
	})
	if !reached {
		err = providers.NotReached(err)
	}
	return result, err
}

// WriteFile implements providers.Guests.
func (p *Provider) WriteFile(ctx context.Context, id types.UID, path string, mode uint32, r io.Reader) error {
	return p.inGuest(ctx, id, func(ctx context.Context, c *guestcontrol.Client, _ machine) error {
		return c.WriteFile(ctx, path, mode, r)
	})
}

// ReadFile implements providers.Guests.
func (p *Provider) ReadFile(ctx context.Context, id types.UID, path string, w io.Writer) (providers.FileInfo, error) {
	var info providers.FileInfo
	err := p.inGuest(ctx, id, func(ctx context.Context, c *guestcontrol.Client, _ machine) (err error) {
		info, err = c.ReadFile(ctx, path, w)
		return err
	})
	return info, err
}

// ConfigureGuest implements providers.Guests.
func (p *Provider) ConfigureGuest(ctx context.Context, id types.UID, cfg providers.GuestConfig) error {
	return p.inGuest(ctx, id, func(ctx context.Context, c *guestcontrol.Client, m machine) error {
		return guestcall.Configure(ctx, c, cfg, offeredFolders(m))
	})
}

// offeredFolders are the shared folders that a machine has, and whether they are
// read-only, which VirtualBox does not say and our record does.
func offeredFolders(m machine) map[string]bool {
	offered := map[string]bool{}
	for name := range foldersOf(m.info) {
		offered[name] = !slices.ContainsFunc(m.record.SharedFolders, func(f v1.SharedFolder) bool {
			return f.Name == name && !f.IsReadOnly()
		})
	}
	return offered
}

// clearLogins removes password files that a process which was killed has left.
func (l layout) clearLogins() error {
	left, err := os.ReadDir(l.Root)
	for _, e := range left {
		if strings.HasPrefix(e.Name(), ".login-") || strings.HasPrefix(e.Name(), ".copy-") {
			err = errors.Join(err, os.Remove(l.Root+"/"+e.Name()))
		}
	}
	return err
}
