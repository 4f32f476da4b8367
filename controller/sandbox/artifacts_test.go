package sandbox

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/artifact"
	"sandboxd.dev/sandboxd/hostpath"
	"sandboxd.dev/sandboxd/providers"
)

func TestNextArtifacts(t *testing.T) {
	powers := []providers.Power{providers.PowerOff, providers.PowerRunning, providers.PowerPaused, providers.PowerSaved, providers.PowerStopping}
	// What is done of a machine that is kept, and of one that is deleted.
	want := map[providers.Power][2]artifactStep{
		providers.PowerOff:      {artifactsCollect, artifactsCollect},
		providers.PowerSaved:    {artifactsWait, artifactsCollect},
		providers.PowerRunning:  {artifactsWait, artifactsStop},
		providers.PowerPaused:   {artifactsWait, artifactsStop},
		providers.PowerStopping: {artifactsWait, artifactsStop},
	}
	for _, power := range powers {
		m := &providers.Machine{Power: power}
		for i, deleting := range []bool{false, true} {
			if got := nextArtifacts(m, true, deleting); got != want[power][i] {
				t.Errorf("%v, deleting %v: %v, want %v", power, deleting, got, want[power][i])
			}
			if got := nextArtifacts(m, false, deleting); got != artifactsWait {
				t.Errorf("%v, deleting %v, nothing due: %v", power, deleting, got)
			}
		}
	}
	if nextArtifacts(nil, true, true) != artifactsForget || nextArtifacts(nil, true, false) != artifactsForget || nextArtifacts(nil, false, true) != artifactsWait {
		t.Error("without a machine")
	}
}

func TestJudgeArtifact(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	full := fmt.Errorf("write: %w", syscall.ENOSPC)
	for name, c := range map[string]struct {
		err            error
		since, awaited time.Duration // before now; 0 means never
		want           artifactOutcome
	}{
		"copied":                         {nil, 0, 0, artifactDone},
		"no such path":                   {providers.Errorf(providers.ErrNotFound, "x", "no"), 0, 0, artifactFailed},
		"another file system":            {providers.Errorf(providers.ErrUnsupported, "x", "no"), 0, 0, artifactFailed},
		"damaged":                        {providers.Errorf(providers.ErrInvalid, "x", "no"), 0, 0, artifactFailed},
		"too large":                      {fmt.Errorf("x: %w", artifact.ErrTooLarge), time.Hour, time.Hour, artifactFailed},
		"disk full":                      {full, 0, 0, artifactRetry},
		"disk full for long":             {full, 24 * time.Hour, 0, artifactRetry},
		"disk full, deleted just now":    {full, 24 * time.Hour, time.Minute, artifactRetry},
		"disk full, deleted long ago":    {full, 24 * time.Hour, artifactPatience, artifactGiveUp},
		"deleted long ago, now full":     {full, time.Minute, time.Hour, artifactRetry},
		"the host's path is not allowed": {hostpath.ErrForbidden, time.Second, time.Hour, artifactRetry},
		"the hypervisor is down":         {providers.Errorf(providers.ErrUnavailable, "x", "no"), time.Second, time.Second, artifactRetry},
		"the disk is in use":             {providers.Errorf(providers.ErrBusy, "x", "no"), time.Second, 0, artifactRetry},
		"anything else":                  {errors.New("?"), time.Second, 0, artifactRetry},
	} {
		at := func(ago time.Duration) time.Time {
			if ago == 0 {
				return time.Time{}
			}
			return now.Add(-ago)
		}
		since := at(c.since)
		if c.err != nil && since.IsZero() {
			since = now // collect sets it
		}
		if got := judgeArtifact(c.err, since, at(c.awaited), now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestArmArtifacts(t *testing.T) {
	sbx := &v1.Sandbox{}
	sbx.Spec.Artifacts = []v1.Artifact{{Name: "a"}, {Name: "b"}}
	sbx.Status.Artifacts = []v1.ArtifactStatus{{Name: "a", Digest: "sha256:1"}, {Name: "gone"}}
	if len(dueArtifacts(sbx)) != 0 {
		t.Error("due before the machine ran")
	}
	if !armArtifacts(sbx) || armArtifacts(sbx) {
		t.Error("it is news once")
	}
	if len(dueArtifacts(sbx)) != 2 || len(sbx.Status.Artifacts) != 2 || sbx.Status.Artifacts[0].Digest != "sha256:1" {
		t.Errorf("%+v", sbx.Status.Artifacts)
	}
}
