//go:build !race

package soak

// raced: the race detector is on, which takes several times as long.
const raced = false
