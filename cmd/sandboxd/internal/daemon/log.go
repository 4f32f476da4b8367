package daemon

import (
	"io"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"

	"sandboxd.dev/sandboxd/config"
)

// NewLogger makes the daemon's logger. Detail (logr's V(1) and beyond) is
// logged at the level debug only.
func NewLogger(c config.Log, w io.Writer) logr.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	switch c.Level {
	case config.LevelDebug:
		options.Level = slog.LevelDebug
	case config.LevelError:
		options.Level = slog.LevelError
	}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if c.Format == config.FormatJSON {
		handler = slog.NewJSONHandler(w, options)
	}
	return logr.FromSlogHandler(handler)
}

// AdoptLoggers makes the libraries that log by themselves use the logger; what
// is of no weight to them is detail here. It changes the process and is called
// once, by main.
func AdoptLoggers(log logr.Logger) {
	slog.SetDefault(slog.New(logr.ToSlogHandler(log.WithName("library"))))
	klog.SetLogger(log.WithName("client"))
	crlog.SetLogger(log.WithName("controller").V(1))
}
