package goldenimage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/providers"
)

// An image from an installer has no base. Its machine is made with the installer,
// in a job of its own because that is copied or downloaded first; boots it; and,
// when the installer has powered it off, is ensured again without it, which
// refuses what does not boot.

// defaultDiskSize is that of a disk whose image names none.
const defaultDiskSize = 20 << 30

// passwordKey is the key of a Secret under which a password is.
const passwordKey = "password"

// addInstall adds the installer to the spec of an image's machine.
func (r *Reconciler) addInstall(ctx context.Context, s *state, spec *providers.MachineSpec) error {
	iso := s.img.Spec.Source.ISO
	in := providers.Install{URL: iso.URL, SHA256: iso.SHA256, Answers: *iso.Unattended.DeepCopy()}
	if iso.Path != "" {
		path, err := r.o.HostPaths.File(iso.Path)
		if err != nil {
			return pathError(r.object(s), "source.iso.path", err)
		}
		in.ISO = path
	}
	var err error
	if in.Password, err = r.password(ctx, r.object(s), iso.Unattended.PasswordSecretRef); err != nil {
		return err
	}
	spec.Install = &in
	return nil
}

// password reads what a Secret holds. That it is not there yet is ErrNotFound,
// which is tried again.
func (r *Reconciler) password(ctx context.Context, object string, ref v1.SecretReference) (string, error) {
	const field = "source.iso.unattended.passwordSecretRef"
	secret := &corev1.Secret{}
	err := r.o.Build.Secrets.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, secret)
	if apierrors.IsNotFound(err) {
		return "", providers.Errorf(providers.ErrNotFound, object, "%s: there is no Secret %s/%s: create it, with the key %q", field, ref.Namespace, ref.Name, passwordKey)
	}
	if err != nil {
		return "", err
	}
	password := string(secret.Data[passwordKey])
	switch {
	case password == "":
		return "", providers.Errorf(providers.ErrNotFound, object, "%s: Secret %s/%s has no key %q", field, ref.Namespace, ref.Name, passwordKey)
	case strings.ContainsAny(password, "\x00\r\n"):
		return "", providers.Errorf(providers.ErrInvalid, object, "%s: the password in Secret %s/%s has more than one line, and nobody could type it: leave the newline at its end out", field, ref.Namespace, ref.Name)
	}
	return password, nil
}

// makeInstaller makes the machine of an installation in a job, because its
// installer is copied or downloaded first. True once it is made.
func (r *Reconciler) makeInstaller(s *state, spec providers.MachineSpec) (bool, error) {
	key, p := s.key(s.wanted.Revision), s.provider
	st := r.o.Build.Jobs.Ensure(key, func(ctx context.Context, report func(build.Progress)) (struct{}, error) {
		report(build.Progress{Doing: "fetching the installer"})
		return struct{}{}, p.EnsureMachine(ctx, spec)
	})
	if !st.Done {
		s.again = progressInterval
		return false, nil
	}
	r.o.Build.Jobs.Forget(key)
	return st.Err == nil, st.Err
}

// finishInstall takes the installer away from a machine that it has powered off.
func (r *Reconciler) finishInstall(ctx context.Context, s *state) error {
	spec, err := r.machineSpec(s)
	if err != nil {
		return err
	}
	return s.provider.EnsureMachine(ctx, spec)
}

// Bounds of what is read and shown of a console, in bytes.
const (
	consoleTail = 4 << 10
	consoleLine = 160
)

// consoleLines are the last lines that a machine's console shows, fit to be
// printed; a few at most, and none when it cannot be read.
func consoleLines(ctx context.Context, p providers.Provider, id types.UID, most int) []string {
	r, err := p.Console(ctx, id, providers.ConsoleOptions{TailBytes: consoleTail})
	if err != nil {
		return nil
	}
	defer func() { _ = r.Close() }()
	b, _ := io.ReadAll(io.LimitReader(r, consoleTail))
	return lastLines(string(b), most)
}

// lastLines are the last lines of a text that say something. Installers draw on
// terminals: what moves a cursor or sets colours is left out, and whatever else no
// letter is as well.
func lastLines(text string, most int) []string {
	var out []string
	for line := range strings.FieldsFuncSeq(withoutSequences(text), func(c rune) bool { return c == '\n' || c == '\r' }) {
		line = strings.TrimSpace(strings.Map(printable, line))
		if line == "" {
			continue
		}
		if len(line) > consoleLine {
			line = strings.ToValidUTF8(line[:consoleLine], "") + "…"
		}
		out = append(out, line)
	}
	return out[max(0, len(out)-most):]
}

// withoutSequences leaves out a terminal's control sequences (ECMA-48).
func withoutSequences(text string) string {
	var b strings.Builder
	for text != "" {
		before, after, found := strings.Cut(text, "\x1b")
		b.WriteString(before)
		if !found {
			break
		}
		text = after
		if !strings.HasPrefix(text, "[") {
			text = text[min(1, len(text)):]
			continue
		}
		end := strings.IndexFunc(text[1:], func(c rune) bool { return c >= '@' && c <= '~' })
		if end < 0 {
			break
		}
		text = text[1+end+1:]
	}
	return b.String()
}

// printable leaves out, of what a guest says, all that is not plain text.
func printable(c rune) rune {
	switch {
	case c == '\t':
		return ' '
	case c < ' ' || c >= 0x7f && c < 0xa0 || c == utf8.RuneError || c >= 0x200b && c <= 0x200f || c >= 0x202a && c <= 0x202e || c >= 0x2066 && c <= 0x2069:
		return -1
	default:
		return c
	}
}

// withConsole adds to why an installation failed what its console said last.
func (r *Reconciler) withConsole(ctx context.Context, s *state, err error) error {
	lines := consoleLines(ctx, s.provider, s.img.UID, 3)
	if err == nil || len(lines) == 0 {
		return err
	}
	said := fmt.Sprintf("; the installer's console said last: %q", strings.Join(lines, " | "))
	if f := (*build.Failure)(nil); errors.As(err, &f) {
		told := *f
		told.Message += said
		return &told
	}
	if e := (*providers.Error)(nil); errors.As(err, &e) {
		told := *e
		told.Err = fmt.Errorf("%w%s", cmp.Or(e.Err, e.Kind), said)
		return &told
	}
	return err
}
