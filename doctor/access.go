package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/providers"
)

// rotateBefore is how long before its end an authority is to be replaced: all
// kubeconfigs have to be written anew by then.
const rotateBefore = 90 * 24 * time.Hour

// accessCheck tells how the daemon is reached over TCP; none when it says nothing,
// as an older one.
func accessCheck(ctx context.Context, o Options) []providers.Finding {
	if o.Authorities == nil {
		return nil
	}
	a, err := o.Authorities(ctx)
	if err != nil {
		return nil
	}
	return []providers.Finding{judgeAccess(a, time.Now())}
}

// judgeAccess judges the daemon's certificates at a time.
func judgeAccess(a client.Authorities, now time.Time) providers.Finding {
	const subject = "access by TCP"
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	where := "on " + strings.Join(a.Addresses, ", ")
	switch {
	case len(a.Addresses) == 0:
		return found(subject, ok, "the daemon is reached by its socket alone", "")
	case !now.Before(a.ServingExpires):
		return found(subject, missing, fmt.Sprintf("the certificate that the daemon shows %s was valid until %s", where, day(a.ServingExpires)), "look at the daemon's log for why it was not renewed, and at the host's clock")
	case a.Expires.Sub(now) < rotateBefore:
		return found(subject, warning, fmt.Sprintf("the authority that clients trust is valid until %s", day(a.Expires)), "sandboxd pki rotate, then write all kubeconfigs anew")
	case a.PreviousUntil != nil:
		return found(subject, warning, fmt.Sprintf("the authority was rotated: kubeconfigs from before work until %s", day(*a.PreviousUntil)), "write those anew that are still in use: sandboxd users lists them")
	}
	return found(subject, ok, fmt.Sprintf("the daemon listens %s, its certificates are valid until %s", where, day(a.ServingExpires)), "")
}
