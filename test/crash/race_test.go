//go:build race

package crash_test

// raced: the race detector is on, which takes several times as long.
const raced = true
