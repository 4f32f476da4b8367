// Package clients_test holds programs as their authors write them for Kubernetes, on
// unmodified client-go and controller-runtime, and lets a daemon die under them.
//
//	informers, a controller, leaders, writers, typed clients ──▶ sandboxd serve --simulate
//	        │                                                      │ stopped, killed, resumed
//	        └── at the end, what they know is what is there ◀──────┘
//
// None of them may need to know that it is not Kubernetes that they talk to. They need
// the program under test, as in package kubectl_test.
package clients_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/test/daemon"
)

// roleVariable makes a child of the test binary: see leader_test.go.
const roleVariable = "SANDBOXD_CLIENTS_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		if err := candidate(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually repeats f until it returns no error.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(daemon.Patience); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never: %s: %v", what, err)
		}
	}
}

// acknowledged repeats a write that a dying daemon may not have answered, until one
// says that it is done.
func acknowledged(t testing.TB, what string, write func(context.Context) error, done ...func(error) bool) {
	t.Helper()
	eventually(t, what, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), daemon.Patience)
		defer cancel()
		err := write(ctx)
		for _, is := range done {
			if is(err) {
				return nil
			}
		}
		return err
	})
}
