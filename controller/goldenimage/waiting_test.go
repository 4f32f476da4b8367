package goldenimage

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/conditiontest"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/providers"
)

// TestStatusSaysWhatItWaitsFor: of every state that is not ready the reason is the
// cause's, and the message names what is waited for or what to do.
func TestStatusSaysWhatItWaitsFor(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	digest := strings.Repeat("a", 64)
	sealed := func(s *state) { s.sealed = &providers.Image{ImageRef: providers.ImageRef{Revision: "r"}} }
	failed := func(kind error, reason string) func(*state) {
		return func(s *state) { s.err = providers.Errorf(kind, "image", "the very cause").WithReason(reason) }
	}
	built := func(change func(*state)) func(*state) {
		return func(s *state) { s.plan = build.Plan{Machine: true}; change(s) }
	}
	for name, tc := range map[string]struct {
		change      func(*state)
		ready, also string
		says        []string
	}{
		"about to begin": {func(*state) {}, "False/Importing", "Imported=False/Importing", []string{"about to begin"}},
		"not read":       {func(*state) {}, "False/Importing", "Verified=Unknown/Reconciling", nil},
		"in the middle": {
			func(s *state) { s.progress = &providers.Progress{Stage: "downloading", Done: 1 << 29, Total: 1 << 30} },
			"False/Importing", "Imported=False/Importing",
			[]string{"downloading: 50% of 1024Mi"},
		},
		"imported":             {sealed, "True/AsSpecified", "Imported=True/Imported", nil},
		"digest recorded":      {sealed, "True/AsSpecified", "Verified=True/DigestRecorded", nil},
		"digest given":         {func(s *state) { sealed(s); s.img.Spec.Source.Disk.SHA256 = digest }, "True/AsSpecified", "Verified=True/DigestMatches", nil},
		"digest of a file":     {func(s *state) { sealed(s); s.img.Spec.Source.Disk.ChecksumURL = "https://x" }, "True/AsSpecified", "Verified=True/ChecksumMatches", nil},
		"another digest":       {failed(providers.ErrInvalid, providers.ReasonDigestMismatch), "False/DigestMismatch", "Verified=False/DigestMismatch", []string{"the very cause"}},
		"not a disk":           {failed(providers.ErrInvalid, providers.ReasonFormatMismatch), "False/FormatMismatch", "Stalled=True/FormatMismatch", []string{"the very cause"}},
		"needs others":         {failed(providers.ErrInvalid, providers.ReasonBackingFile), "False/BackingFile", "Stalled=True/BackingFile", []string{"the very cause"}},
		"no source":            {failed(providers.ErrNotFound, providers.ReasonSourceNotFound), "False/SourceNotFound", "Imported=False/SourceNotFound", []string{"the very cause"}},
		"a sandbox that is on": {failed(providers.ErrBusy, v1.ReasonSandboxOn), "False/SandboxOn", "Imported=False/SandboxOn", []string{"the very cause"}},
		"no space":             {failed(providers.ErrCapacity, ""), "False/InsufficientCapacity", "Imported=False/InsufficientCapacity", []string{"the very cause"}},
		"unavailable":          {failed(providers.ErrUnavailable, ""), "False/ProviderUnavailable", "Imported=Unknown/ProviderUnavailable", []string{"the very cause"}},
		"cannot be seen": {
			func(s *state) { s.img.Status.Revision = "r"; failed(providers.ErrUnavailable, "")(s) },
			"False/ProviderUnavailable", "Verified=Unknown/ProviderUnavailable",
			[]string{"the very cause"},
		},

		"to be built":        {built(func(*state) {}), "False/Importing", "Provisioned=False/Reconciling", nil},
		"is built":           {built(func(s *state) { s.building = "step 2 of 3 runs" }), "False/Provisioning", "Provisioned=False/Provisioning", []string{"step 2 of 3"}},
		"was built":          {built(sealed), "True/AsSpecified", "Provisioned=True/Provisioned", nil},
		"a step failed":      {built(failed(providers.ErrInvalid, v1.ReasonProvisionFailed)), "False/ProvisionFailed", "Provisioned=False/ProvisionFailed", []string{"the very cause"}},
		"took too long":      {built(failed(providers.ErrInvalid, v1.ReasonBuildTimedOut)), "False/BuildTimedOut", "Stalled=True/BuildTimedOut", []string{"the very cause"}},
		"lost again":         {built(failed(providers.ErrInvalid, v1.ReasonBuildFailed)), "False/BuildFailed", "Stalled=True/BuildFailed", []string{"the very cause"}},
		"build, unavailable": {built(failed(providers.ErrUnavailable, "")), "False/ProviderUnavailable", "Provisioned=Unknown/ProviderUnavailable", []string{"the very cause"}},

		"deleted, in use": {func(s *state) {
			s.img.DeletionTimestamp = &metav1.Time{Time: now}
			s.sandboxes = []v1.Sandbox{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}}
		}, "False/InUse", "", []string{"1 sandbox (default/web)"}},
		"deleted": {func(s *state) { s.img.DeletionTimestamp = &metav1.Time{Time: now}; failed(providers.ErrBusy, "")(s) }, "False/Deleting", "", []string{"is being removed: ", "the very cause"}},
	} {
		s := &state{img: &v1.GoldenImage{}, provider: struct{ providers.Provider }{}, now: now, clones: map[string]int32{}}
		s.img.Spec.Source.Disk = &v1.DiskSource{Path: "/x"}
		tc.change(s)
		updateStatus(s)
		conditiontest.Ready(t, name, s.img.Status.Conditions, tc.ready, tc.also, tc.says)
		for _, c := range s.img.Status.Conditions {
			if c.Message == "" || c.LastTransitionTime.Time != now {
				t.Errorf("%s: %+v", name, c)
			}
		}
	}
}
