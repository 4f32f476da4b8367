//go:build !race

package controller_test

// raced: the race detector is on, which takes several times as long.
const raced = false
