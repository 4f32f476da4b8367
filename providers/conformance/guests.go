package conformance

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// RunGuest runs the part of the suite about commands and files in a guest that is
// there already and whose agent is connected, whatever the way by which p reaches
// into it. otherUser is a user of the guest besides root.
func RunGuest(t *testing.T, p providers.Provider, id types.UID, otherUser string) {
	s := &suite{root: t, p: check(t, p), shared: id, b: Backend{
		User: "root", OtherUser: otherUser, Commands: 12, Bulk: 256 << 10,
		Limits: Limits{Boot: 10 * time.Minute, Call: 5 * time.Minute},
	}}
	s.testExec(t)
	s.testFiles(t)
}
