//go:build !(linux && amd64)

package accel

import (
	"errors"
	"os"
)

func runGuest(*os.File) error { return errors.New("only x86-64 hosts are supported") }
