package crash_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// TestMain is the daemon where a test says so.
func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard()) // libraries are kept quiet
	if on := os.Getenv(envDaemon); on != "" {
		fmt.Fprintln(os.Stderr, serve(on))
		os.Exit(1)
	}
	os.Exit(m.Run())
}
