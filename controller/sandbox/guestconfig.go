package sandbox

import (
	"context"
	"errors"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// guestConfigUnknown stands for the hash of what a guest was set up with while
// that is changing, when a change failed midway, and when the guest may have
// started since. The empty hash is that of a disk that was never set up.
const guestConfigUnknown = "unknown"

// forgetGuestConfig has a guest that was set up once be set up again, if only to
// take away what is not wanted any more: its disk keeps the keys.
func forgetGuestConfig(st *v1.SandboxStatus) {
	if st.GuestConfigHash != "" {
		st.GuestConfigHash = guestConfigUnknown
	}
}

// guestConfigOfDisk is the hash for a disk that was just cloned: a fork's has the keys
// of the sandbox that it was forked from.
func (v *view) guestConfigOfDisk() string {
	if v.sbx.Spec.FromSnapshot != "" {
		return guestConfigUnknown
	}
	return ""
}

// configureGuest applies ssh keys and mounts where an agent can, or ssh. A guest
// that does not let itself be set up is no reason to stop or to start over: it is
// told and tried again at the next look.
//
// That the guest changes is written down before it does. A later reconciliation
// would otherwise take a guest for one with the former keys if this one changes
// them and its status is never written, and would not put the former ones back.
func (r *Reconciler) configureGuest(ctx context.Context, p providers.Provider, v *view) {
	st := &v.sbx.Status
	switch {
	case v.img == nil:
		return
	case agentless(v.img) && v.guest.status != metav1.ConditionTrue:
		forgetGuestConfig(st) // it is booting, perhaps again
		return
	case agentless(v.img) && r.o.SSH == nil, !agentless(v.img) && v.machine.Agent != providers.AgentConnected:
		return
	}
	cfg := guestConfig(v.sbx, v.img)
	hash := cfg.Hash()
	if st.GuestConfigHash == hash || (st.GuestConfigHash == "" && cfg.IsEmpty()) {
		return
	}
	st.GuestConfigHash = guestConfigUnknown
	if v.before.Status.GuestConfigHash != guestConfigUnknown {
		if v.err = r.write(ctx, v); v.err != nil {
			return
		}
	}
	if err := r.applyGuestConfig(ctx, p, v, cfg); err != nil {
		v.guest.configErr = err
		return
	}
	st.GuestConfigHash = hash
}

// guestConfigLimit bounds setting up a guest, which may never answer, on purpose.
// An interpreted one takes most of a minute for some folders.
const guestConfigLimit = 2 * time.Minute

func (r *Reconciler) applyGuestConfig(ctx context.Context, p providers.Provider, v *view, cfg providers.GuestConfig) error {
	bounded, cancel := context.WithTimeout(ctx, guestConfigLimit)
	defer cancel()
	err := r.configure(bounded, p, v, cfg)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return providers.Errorf(providers.ErrUnavailable, "sandbox "+v.sbx.Namespace+"/"+v.sbx.Name,
			"its guest did not let itself be set up within %v", guestConfigLimit)
	}
	return err
}

func (r *Reconciler) configure(ctx context.Context, p providers.Provider, v *view, cfg providers.GuestConfig) error {
	if !agentless(v.img) {
		return p.ConfigureGuest(ctx, v.sbx.UID, cfg)
	}
	err := r.o.SSH.ConfigureGuest(ctx, p, v.sbx, v.img, cfg)
	if errors.Is(err, providers.ErrUnsupported) && len(cfg.Mounts) == 0 && v.machine.Hashes.Seed == v.desired.Hashes.Seed {
		return nil // we cannot get in, and need not: the keys are those of its seed
	}
	return err
}
