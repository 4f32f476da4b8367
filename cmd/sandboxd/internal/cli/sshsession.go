package cli

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// session is all that ssh is to be told.
type session struct {
	program, socket string // this program, and where the daemon is
	key             types.NamespacedName
	host            string // what its host key is kept by
	known           string // the file that host keys are kept in
	user            string
	port            int32
	identities      []string
	options         []string
	tty             int
	command         []string
}

// untrusted are options that hold unless the caller says otherwise himself: the guest is
// not trusted, whatever ssh_config says for hosts that are. With an agent or an X11 server,
// it could use the caller's keys and his keyboard; with forwarded ports, get out of its
// network; with a file of host keys that it may add to, pretend to be others. A connection
// that is shared would lead to a former sandbox of the name.
var untrusted = []string{
	"StrictHostKeyChecking=accept-new", "UpdateHostKeys=no", "VerifyHostKeyDNS=no", "CheckHostIP=no", "HashKnownHosts=no",
	"ForwardAgent=no", "ForwardX11=no", "ForwardX11Trusted=no", "ClearAllForwardings=yes", "Tunnel=no",
	"PermitLocalCommand=no", "ControlMaster=no", "ControlPath=none", "CanonicalizeHostname=no",
}

// sshCommand is the command line of ssh. Of what is said twice, ssh takes the first:
// what makes this a connection to the sandbox, then what the caller says, then the rest.
func sshCommand(s session) []string {
	proxy := []string{s.program, "port-forward", "--stdio", "--socket", s.socket, "--namespace", s.key.Namespace, "--", s.key.Name, strconv.Itoa(int(s.port))}
	argv := []string{"ssh", "-o", "ProxyCommand=" + shellCommand(proxy), "-o", "HostKeyAlias=" + s.host}
	for _, o := range s.options {
		argv = append(argv, "-o", o)
	}
	argv = append(argv, "-o", "UserKnownHostsFile="+configWord(s.known))
	for _, o := range untrusted {
		argv = append(argv, "-o", o)
	}
	for _, file := range s.identities {
		argv = append(argv, "-i", file)
	}
	if len(s.identities) > 0 {
		argv = append(argv, "-o", "IdentitiesOnly=yes")
	}
	for range min(s.tty, 2) {
		argv = append(argv, "-t")
	}
	// No word after -- is an option. The name is no other host's, so that what ssh_config
	// says of those is not taken for it.
	argv = append(argv, "-l", s.user, "--", s.key.Name+"."+s.key.Namespace+".sandboxd")
	return append(argv, s.command...)
}

// shellCommand is a command for the user's shell, in the words of a ProxyCommand, where %
// begins a sequence and before which ssh puts exec. Within quotes, shells differ in what \ means, so it stands outside.
func shellCommand(words []string) string {
	var b strings.Builder
	for i, word := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		plain := func(r rune) bool {
			return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:,+@", r)
		}
		if word == "" || strings.ContainsFunc(word, func(r rune) bool { return !plain(r) }) {
			word = "'" + strings.NewReplacer(`'`, `'\''`, `\`, `'\\'`).Replace(word) + "'"
		}
		b.WriteString(strings.ReplaceAll(word, "%", "%%"))
	}
	return b.String()
}

// configWord is a file name in the words of ssh_config, which splits at spaces and where
// % begins a sequence.
func configWord(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(path) + `"`
}

// hostKeyAlias is what the host key of a sandbox is kept by. It is the UID: a new sandbox
// of the name is another host. So is one whose disk was put back, since guests make their
// host keys when they first need them.
func hostKeyAlias(sbx *v1.Sandbox) string {
	alias := string(sbx.UID)
	if r := sbx.Status.Revert; r != nil {
		alias += fmt.Sprintf("-%x", sha256.Sum256([]byte(r.Snapshot+"\x00"+r.Request)))[:9]
	}
	if at := sbx.Status.StartedAt; sbx.Spec.DiscardOnStop && at != nil {
		alias += fmt.Sprintf("-%d", at.Unix())
	}
	return alias
}

// maxKnownHosts bounds the file of host keys, in bytes: most of its sandboxes are gone.
const maxKnownHosts = 1 << 20

// knownHosts is the user's file of the host keys of sandboxes. He has none of theirs in
// his own one, and it does not grow without end.
func knownHosts() (string, error) {
	config, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("there is no folder for the host keys of sandboxes: %w", err)
	}
	dir := filepath.Join(config, "sandboxd")
	path := filepath.Join(dir, "known_hosts")
	if strings.Contains(path, "${") { // ssh would take it for a variable, and there is no way to say that it is none
		return "", fmt.Errorf("ssh cannot use the file %s: its name has ${ in it", path)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("%s, for the host keys of sandboxes, cannot be made: %w", dir, pathReason(err))
	}
	if info, err := os.Stat(path); err != nil || info.Size() <= maxKnownHosts {
		return path, nil // ssh makes it, and tells what is wrong with it
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s cannot be read: %w", path, pathReason(err))
	}
	err = replaceFile(path, func(f *os.File) (fs.FileMode, error) {
		_, err := f.Write(latestLines(raw, maxKnownHosts/2))
		return 0o600, err
	})
	if err != nil {
		return "", err
	}
	return path, nil
}

// latestLines are the last whole lines of a text, of so many bytes at the most.
func latestLines(text []byte, most int) []byte {
	if len(text) <= most {
		return text
	}
	tail := text[len(text)-most-1:] // with the byte before, which may be the end of a line
	if i := bytes.IndexByte(tail, '\n'); i >= 0 {
		return tail[i+1:]
	}
	return nil
}
