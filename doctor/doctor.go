// Package doctor finds out what keeps sandboxd from working on a host, and says
// in plain words how to mend it.
//
//	configuration ─▶ folders ─▶ capacity ─▶ daemon (socket, answer, certificates, version) ─▶ hypervisors
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
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/version"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/config"
	"sandboxd.dev/sandboxd/providers"
)

const (
	ok      = providers.SeverityOK
	warning = providers.SeverityWarning
	missing = providers.SeverityMissing
)

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
	// Authorities asks the daemon for its certificates; nil asks nothing.
	Authorities func(context.Context) (client.Authorities, error)
	// ServerReady asks the daemon why it does not look after machines; nil asks
	// nothing.
	ServerReady func(context.Context) error
	// Capacity says what machines may have; nil says nothing.
	Capacity func() providers.Finding
	// Hypervisors make the checks of the providers.
	Hypervisors []func(context.Context) []providers.Finding
}

// askTimeout bounds how long the daemon may take to answer.
const askTimeout = 10 * time.Second

// Run makes all checks, in the order in which people would.
func Run(ctx context.Context, o Options) []providers.Finding {
	checks := []providers.Finding{configCheck(o)}
	checks = append(checks, dirCheck("data folder", o.Config.DataDir, "--data-dir"), imagesCheck(o.Config.BaseImageDir))
	if o.Capacity != nil {
		checks = append(checks, o.Capacity())
	}
	checks = append(checks, daemonChecks(ctx, o)...)
	for _, hypervisor := range o.Hypervisors {
		checks = append(checks, hypervisor(ctx)...)
	}
	return checks
}

// Sound tells whether nothing is missing.
func Sound(checks []providers.Finding) bool {
	for _, c := range checks {
		if c.Severity == missing {
			return false
		}
	}
	return true
}

func configCheck(o Options) providers.Finding {
	if o.ConfigErr != nil {
		return found("configuration", missing, o.ConfigErr.Error(), "correct it; `sandboxd serve --help` lists the settings")
	}
	return found("configuration", ok, "it can be read", "")
}

// dirCheck looks at a folder that the daemon writes to.
func dirCheck(subject, dir, flag string) providers.Finding {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return found(subject, warning, dir+" does not exist yet: the daemon makes it when it starts", "")
	case err != nil:
		return found(subject, warning, fmt.Sprintf("%s cannot be looked at by this user", dir), "")
	case !info.IsDir():
		return found(subject, missing, dir+" is not a folder", "remove it, or name another with "+flag)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return found(subject, ok, dir+" exists", "")
	}
	free := st.Bavail * uint64(st.Bsize) //nolint:gosec // a block size is positive
	message := fmt.Sprintf("%s has %s free", dir, gib(free))
	if free < lowSpace {
		return found(subject, warning, message+": images and disks may not fit", "free some space, or name another folder with "+flag)
	}
	return found(subject, ok, message, "")
}

func found(check string, severity providers.Severity, message, fix string) providers.Finding {
	return providers.Finding{Check: check, Severity: severity, Message: message, Fix: fix}
}

// lowSpace is how much free space is worth a warning, in bytes.
const lowSpace = 2 << 30

func gib(bytes uint64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

func imagesCheck(dir string) providers.Finding {
	const subject = "base images"
	entries, err := os.ReadDir(dir)
	switch {
	case err != nil:
		return found(subject, warning, dir+" cannot be read, or does not exist yet: relative image paths are looked up there", "")
	case len(entries) == 0:
		return found(subject, warning, dir+" is empty: relative image paths are looked up there", "put a disk image there, or name images by absolute paths below allowedHostPaths")
	}
	return found(subject, ok, fmt.Sprintf("%s has %d files", dir, len(entries)), "")
}

func daemonChecks(ctx context.Context, o Options) []providers.Finding {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	start, join := "sudo systemctl start sandboxd, or sandboxd serve", "sudo usermod -aG sandboxd $USER, then log in again"
	if runtime.GOOS != "linux" { // those are Linux's commands
		start, join = "sandboxd serve", "run the command as the daemon's user"
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", o.Socket)
	if err != nil {
		c := found("daemon", missing, fmt.Sprintf("nobody listens on the socket %s", o.Socket), start)
		switch {
		case errors.Is(err, fs.ErrPermission):
			c.Message, c.Fix = fmt.Sprintf("this user may not use the socket %s", o.Socket), join
		case errors.Is(err, fs.ErrNotExist):
			c.Message = fmt.Sprintf("the socket %s does not exist: no daemon runs", o.Socket)
		}
		return []providers.Finding{c}
	}
	_ = conn.Close()
	v, err := o.ServerVersion(ctx)
	if err != nil {
		return []providers.Finding{found("daemon", missing, fmt.Sprintf("something listens on %s but does not answer: %v", o.Socket, err), "look at the daemon's log")}
	}
	checks := []providers.Finding{found("daemon", ok, fmt.Sprintf("it answers on %s", o.Socket), "")}
	if o.ServerReady != nil {
		if err := o.ServerReady(ctx); err != nil {
			checks = append(checks, found("readiness", missing, fmt.Sprintf("the daemon does not look after machines: %v", err), ""))
		}
	}
	plain, simulated := strings.CutSuffix(v.GitVersion, "+simulated")
	if simulated {
		checks = append(checks, found("daemon", warning, "it simulates its hypervisors: machines exist in memory only and run no real code", "start it without --simulate"))
	}
	checks = append(checks, accessCheck(ctx, o)...)
	if plain != o.Version {
		return append(checks, found("versions", warning, fmt.Sprintf("the daemon is %s, this program %s", plain, o.Version), "restart the daemon after an upgrade"))
	}
	return append(checks, found("versions", ok, "daemon and program are both "+plain, ""))
}

// Print writes checks for people.
func Print(w io.Writer, checks []providers.Finding) error {
	width := 0
	for _, c := range checks {
		width = max(width, len(c.Check))
	}
	lacks, warnings := 0, 0
	var b strings.Builder
	for _, c := range checks {
		sign := "✓"
		switch c.Severity {
		case missing:
			sign = "✗"
			lacks++
		case warning:
			sign = "!"
			warnings++
		}
		fmt.Fprintf(&b, "%s %-*s  %s\n", sign, width, c.Check, c.Message)
		if c.Fix != "" {
			fmt.Fprintf(&b, "  %-*s  → %s\n", width, "", c.Fix)
		}
	}
	switch {
	case lacks > 0:
		fmt.Fprintf(&b, "\n%d of %d checks found something missing.\n", lacks, len(checks))
	case warnings > 0:
		fmt.Fprintf(&b, "\nNothing is missing; %d of %d checks have something to say.\n", warnings, len(checks))
	default:
		fmt.Fprintf(&b, "\nEverything is as it should be.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
