// Command sandboxd is the daemon and the command line of sandboxd.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"sandboxd.dev/sandboxd/cmd/sandboxd/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
