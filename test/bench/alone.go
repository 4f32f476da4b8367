//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store/bolt"
)

// serveAlone is a process of its own: the API server on a store, without
// controllers and hypervisors, until it is told to end.
func serveAlone(ctx context.Context, dir, socket string) (err error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	store, err := bolt.Open(filepath.Join(dir, "alone.db"), bolt.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	server, err := apiserver.New(ctx, apiserver.Options{Store: store, CRDs: v1.CRDs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	return server.Serve(ctx, l)
}

// startAlone starts such a process.
func (b *bench) startAlone(ctx context.Context, name string) (*daemon, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "s.sock")
	return start(ctx, dir, socket, exec.Command(self, "--serve-alone", dir, "--socket", socket))
}
