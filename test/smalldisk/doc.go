//go:build !linux

// Package smalldisk gives tests a disk that is full when they say so. It needs
// mounts of one's own, which only Linux has.
package smalldisk
