package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/daemon"
	"sandboxd.dev/sandboxd/config"
)

// settings are the flags of the daemon's configuration.
type settings struct {
	file   string
	values map[string]*string
	cmd    *cobra.Command
}

// addSettings adds a flag for each setting.
func addSettings(cmd *cobra.Command) *settings {
	s := &settings{values: map[string]*string{}, cmd: cmd}
	cmd.Flags().StringVar(&s.file, "config", "",
		"Configuration file (default: $SANDBOXD_CONFIG, else "+config.SystemFile+" if it exists)")
	defaults := config.Default(config.ThisHost())
	for _, setting := range config.Settings(&defaults) {
		help := setting.Help + " [$" + strings.Join(setting.Env(), ", $") + "]"
		s.values[setting.Path] = cmd.Flags().String(setting.Flag(), setting.Value(), help)
	}
	return s
}

// load reads the configuration.
func (s *settings) load() (config.Config, error) {
	given := map[string]string{}
	for _, setting := range config.Settings(&config.Config{}) {
		if s.cmd.Flags().Changed(setting.Flag()) {
			given[setting.Path] = *s.values[setting.Path]
		}
	}
	return config.Load(config.ThisHost(), s.file, given)
}

func (a *app) serve() *cobra.Command {
	var simulate bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon",
		Long: `Run the daemon: it keeps the objects, serves the API on a unix socket and makes
the hypervisor match. It stops on SIGTERM or SIGINT within seconds; machines
keep running, and a daemon that is started again picks them up. A second signal
ends it at once.

Every setting is a flag, an environment variable and an entry of the
configuration file, in this order of precedence: --kvm-subnet-pool is
$SANDBOXD_KVM_SUBNET_POOL and kvm.subnetPool.`,
		Example: examples(`
# As a service of the system
sudo sandboxd serve

# Without a hypervisor, to try things out: machines exist in memory only
sandboxd serve --simulate --data-dir /tmp/sandboxd`),
		GroupID: groupDaemon,
		Args:    noArgs,
	}
	s := addSettings(cmd)
	cmd.Flags().BoolVar(&simulate, "simulate", false, "Simulate the hypervisors: machines exist in memory only and run no real code")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := s.load()
		if err != nil {
			return err
		}
		log := daemon.NewLogger(c.Log, a.Err)
		daemon.AdoptLoggers(log)
		ctx, stop := a.untilStopped(cmd.Context())
		defer stop()
		info := a.build
		if simulate {
			info.GitVersion += daemon.SimulatedSuffix
		}
		return daemon.Run(ctx, daemon.Options{
			Config: c, Simulate: simulate, Version: info, Logger: log, Notify: daemon.Notifier(),
		})
	}
	return cmd
}

// stopLimit is how long the daemon may take to stop before it ends itself. Every
// part of it has a shorter limit of its own.
const stopLimit = 45 * time.Second

// untilStopped is a context that the first SIGTERM or SIGINT ends. The second
// ends the process.
func (a *app) untilStopped(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
			cancel()
		case <-done:
			return
		}
		select {
		case <-signals:
			fmt.Fprintln(a.Err, "error: stopped at once by a second signal")
			os.Exit(exitFailure)
		case <-time.After(stopLimit):
			fmt.Fprintf(a.Err, "error: the daemon did not stop within %v and was ended; what it acknowledged is on disk\n", stopLimit)
			os.Exit(exitFailure)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}
