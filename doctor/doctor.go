// Package doctor finds out what keeps sandboxd from working on a host, and says
// in plain words how to mend it.
//
//	configuration ─▶ folders ─▶ daemon (socket, answer, version) ─▶ hypervisors
//
// Every check looks and changes nothing. A check that failed does not keep the
// others from being made.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/version"

	"sandboxd.dev/sandboxd/config"
)

// Verdict is the outcome of a check.
type Verdict string

// The verdicts.
const (
	// OK: as it should be.
	OK Verdict = "ok"
	// Warning: it works, but not as well as it could.
	Warning Verdict = "warning"
	// Missing: sandboxd cannot work so.
	Missing Verdict = "missing"
)

// Check is one thing that was looked at.
type Check struct {
	// Subject is what was looked at, such as "libvirt".
	Subject string  `json:"subject"`
	Verdict Verdict `json:"verdict"`
	// Message is one sentence: what was seen.
	Message string `json:"message"`
	// Fix is the command that mends it, or what to do; may be empty.
	Fix string `json:"fix,omitempty"`
}

// Options say what to look at.
type Options struct {
	Config config.Config
	// ConfigErr is why the configuration could not be read; the checks are made
	// with the defaults then.
	ConfigErr error
	// Socket of the daemon.
	Socket string
	// Version of this program.
	Version string
	// ServerVersion asks the daemon.
	ServerVersion func(context.Context) (*version.Info, error)
	// Hypervisors make the checks of the providers.
	Hypervisors []func(context.Context) []Check
}

// askTimeout bounds how long the daemon may take to answer.
const askTimeout = 10 * time.Second

// Run makes all checks, in the order in which people would.
func Run(ctx context.Context, o Options) []Check {
	checks := []Check{configCheck(o)}
	checks = append(checks, dirCheck("data folder", o.Config.DataDir, "--data-dir"), imagesCheck(o.Config.BaseImageDir))
	checks = append(checks, daemonChecks(ctx, o)...)
	for _, hypervisor := range o.Hypervisors {
		checks = append(checks, hypervisor(ctx)...)
	}
	return checks
}

// Sound tells whether nothing is missing.
func Sound(checks []Check) bool {
	for _, c := range checks {
		if c.Verdict == Missing {
			return false
		}
	}
	return true
}

func configCheck(o Options) Check {
	if o.ConfigErr != nil {
		return Check{"configuration", Missing, o.ConfigErr.Error(), "correct it; `sandboxd serve --help` lists the settings"}
	}
	return Check{Subject: "configuration", Verdict: OK, Message: "it can be read"}
}

// dirCheck looks at a folder that the daemon writes to.
func dirCheck(subject, dir, flag string) Check {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Check{subject, Warning, dir + " does not exist yet: the daemon makes it when it starts", ""}
	case err != nil:
		return Check{subject, Warning, fmt.Sprintf("%s cannot be looked at by this user", dir), ""}
	case !info.IsDir():
		return Check{subject, Missing, dir + " is not a folder", "remove it, or name another with " + flag}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Check{subject, OK, dir + " exists", ""}
	}
	free := st.Bavail * uint64(st.Bsize) //nolint:gosec // a block size is positive
	message := fmt.Sprintf("%s has %s free", dir, gib(free))
	if free < lowSpace {
		return Check{subject, Warning, message + ": images and disks may not fit", "free some space, or name another folder with " + flag}
	}
	return Check{subject, OK, message, ""}
}

// lowSpace is how much free space is worth a warning, in bytes.
const lowSpace = 2 << 30

func gib(bytes uint64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

func imagesCheck(dir string) Check {
	const subject = "base images"
	entries, err := os.ReadDir(dir)
	switch {
	case err != nil:
		return Check{subject, Warning, dir + " cannot be read, or does not exist yet: relative image paths are looked up there", ""}
	case len(entries) == 0:
		return Check{subject, Warning, dir + " is empty: relative image paths are looked up there", "put a disk image there, or name images by absolute paths below allowedHostPaths"}
	}
	return Check{subject, OK, fmt.Sprintf("%s has %d files", dir, len(entries)), ""}
}

func daemonChecks(ctx context.Context, o Options) []Check {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	const start = "sudo systemctl start sandboxd, or sandboxd serve"
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", o.Socket)
	if err != nil {
		c := Check{"daemon", Missing, fmt.Sprintf("nobody listens on the socket %s", o.Socket), start}
		switch {
		case errors.Is(err, fs.ErrPermission):
			c.Message, c.Fix = fmt.Sprintf("this user may not use the socket %s", o.Socket), "sudo usermod -aG sandboxd $USER, then log in again"
		case errors.Is(err, fs.ErrNotExist):
			c.Message = fmt.Sprintf("the socket %s does not exist: no daemon runs", o.Socket)
		}
		return []Check{c}
	}
	_ = conn.Close()
	v, err := o.ServerVersion(ctx)
	if err != nil {
		return []Check{{"daemon", Missing, fmt.Sprintf("something listens on %s but does not answer: %v", o.Socket, err), "look at the daemon's log"}}
	}
	checks := []Check{{"daemon", OK, fmt.Sprintf("it answers on %s", o.Socket), ""}}
	plain, simulated := strings.CutSuffix(v.GitVersion, "+simulated")
	if simulated {
		checks = append(checks, Check{"daemon", Warning, "it simulates its hypervisors: machines exist in memory only and run no real code", "start it without --simulate"})
	}
	if plain != o.Version {
		return append(checks, Check{"versions", Warning, fmt.Sprintf("the daemon is %s, this program %s", plain, o.Version), "restart the daemon after an upgrade"})
	}
	return append(checks, Check{"versions", OK, "daemon and program are both " + plain, ""})
}

// Print writes checks for people.
func Print(w io.Writer, checks []Check) error {
	width := 0
	for _, c := range checks {
		width = max(width, len(c.Subject))
	}
	missing, warnings := 0, 0
	var b strings.Builder
	for _, c := range checks {
		sign := "✓"
		switch c.Verdict {
		case Missing:
			sign = "✗"
			missing++
		case Warning:
			sign = "!"
			warnings++
		}
		fmt.Fprintf(&b, "%s %-*s  %s\n", sign, width, c.Subject, c.Message)
		if c.Fix != "" {
			fmt.Fprintf(&b, "  %-*s  → %s\n", width, "", c.Fix)
		}
	}
	switch {
	case missing > 0:
		fmt.Fprintf(&b, "\n%d of %d checks found something missing.\n", missing, len(checks))
	case warnings > 0:
		fmt.Fprintf(&b, "\nNothing is missing; %d of %d checks have something to say.\n", warnings, len(checks))
	default:
		fmt.Fprintf(&b, "\nEverything is as it should be.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
