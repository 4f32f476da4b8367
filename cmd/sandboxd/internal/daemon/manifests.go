package daemon

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/gitops"
)

// manifestSource is the directory of manifests that is to be applied; nil when there
// is none.
func manifestSource(o Options, r running) (*gitops.Source, error) {
	c := o.Config.Manifests
	if c.Dir == "" {
		return nil, nil
	}
	source, err := gitops.New(gitops.Options{
		Config: r.server.LoopbackConfig(), Dir: c.Dir, Interval: c.Interval, Prune: c.Prune, PruneHold: c.PruneHold,
		Logger: o.Logger.WithName("manifests"),
	})
	if err != nil {
		return nil, err
	}
	r.own.metrics.Register(source)
	r.own.manifests.Store(source)
	return source, nil
}

func (a *admin) tellManifests(w http.ResponseWriter, r *http.Request) {
	a.answerManifests(w, r, func(_ context.Context, s *gitops.Source) (gitops.Status, error) { return s.Status(), nil })
}

func (a *admin) syncManifests(w http.ResponseWriter, r *http.Request) {
	a.answerManifests(w, r, func(ctx context.Context, s *gitops.Source) (gitops.Status, error) { return s.Sync(ctx) })
}

func (a *admin) answerManifests(w http.ResponseWriter, r *http.Request, ask func(context.Context, *gitops.Source) (gitops.Status, error)) {
	source := a.manifests.Load()
	if source == nil && a.waits != nil {
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound,
			"the daemon applies no directory of manifests: a cluster keeps the objects, so apply them there, with Flux or Argo CD for example")
		return
	}
	if source == nil {
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound,
			"the daemon applies no directory of manifests: start it with --manifests DIRECTORY, or set manifests.dir")
		return
	}
	status, err := ask(r.Context(), source)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "the daemon is stopping: try again once it has started")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(manifestsOf(status))
}

// refuse answers with a Status, as the API does.
func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
}

// manifestsOf is a status as clients read it.
func manifestsOf(s gitops.Status) client.Manifests {
	m := client.Manifests{
		Directory: s.Dir, ID: s.ID, Revision: s.Revision, Problem: s.Problem,
		CheckedAt: unlessZero(s.Checked), SucceededAt: unlessZero(s.Succeeded),
		Objects: s.Objects, Settled: s.Settled, Files: []client.ManifestFile{}, Errors: s.Errors, Notes: s.Notes, Failing: s.Failing(),
		Pruning: client.ManifestPruning{
			Enabled: s.Prune.Enabled, Held: s.Prune.Held, Count: s.Prune.Count, Until: unlessZero(s.Prune.Until), Kept: s.Prune.Kept,
		},
	}
	for _, f := range s.Files {
		m.Files = append(m.Files, client.ManifestFile{Path: f.Path, Objects: f.Objects, Errors: f.Errors})
	}
	for _, w := range s.Waiting {
		m.Waiting = append(m.Waiting, client.ManifestWaiting{Object: w.Object, Reason: w.Reason})
	}
	return m
}

func unlessZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
