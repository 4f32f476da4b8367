package providers

import (
	"context"

	"github.com/go-logr/logr"
)

// Logger is what a call says something with: the logger of the reconciliation that
// makes the call, which names the object and the reconciliation, or the provider's own
// where there is none.
func Logger(ctx context.Context, own logr.Logger) logr.Logger {
	if log, err := logr.FromContext(ctx); err == nil {
		return log
	}
	return own
}
