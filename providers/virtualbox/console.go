package virtualbox

import (
	"context"
	"io"

	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/consolelog"
)

// Console implements providers.Guests. Of a long log only the latest output is
// kept.
func (p *Provider) Console(ctx context.Context, id types.UID, opts providers.ConsoleOptions) (io.ReadCloser, error) {
	if err := p.ready(ctx); err != nil {
		return nil, err
	}
	if _, err := p.look(ctx, id); err != nil {
		return nil, err
	}
	log := consoleLog(p.data.console(id))
	log.Over = p.life.Context().Done()
	log.Error = func(err error) error { return p.fileError(machineObject(id), err) }
	return log.Open(ctx, opts)
}

// consoleLog is the log of a console as keepConsole leaves it.
func consoleLog(path string) consolelog.Log {
	parts := consoleParts(path)
	return consolelog.Log{Archive: parts[0], Older: func() ([]string, error) { return parts[1:2], nil }, Path: path}
}
