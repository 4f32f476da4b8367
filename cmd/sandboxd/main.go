// Command sandboxd is the daemon and the command line of sandboxd.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/build"
	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/cli"
	"sandboxd.dev/sandboxd/disk/worker"
)

// version is set by the linker (-X main.version=v1.2.3); empty means what the
// Go tool records in the binary.
var version string

func main() {
	if worker.IsChild(os.Args) {
		os.Exit(worker.Main())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process
	code := cli.Run(ctx, build.Info(version), os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	os.Exit(code)
}
