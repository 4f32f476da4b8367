package gitops

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sandboxd.dev/sandboxd/brief"
	"sandboxd.dev/sandboxd/manifest"
)

// Status is what came of the last round.
type Status struct {
	// Dir and its identity, the value of the label of what is applied from it.
	Dir, ID string
	// Revision of the git checkout that was read last, if it is one.
	Revision string
	// Problem says why the directory could not be read; empty when it could.
	Problem string
	// Checked is when the last round ended, and Succeeded when one did that left
	// nothing to be desired. Zero before.
	Checked, Succeeded time.Time
	// Files that were read last, in the order of their paths.
	Files []FileStatus
	// Objects in them, and how many of these are as they say.
	Objects, Settled int
	Prune            PruneStatus
	// Waiting are objects that cannot be applied or deleted yet, and why.
	Waiting []Waiting
	// Errors that belong to no file.
	Errors []string
	// Notes say what was passed over.
	Notes []string
	// Applied and Pruned count objects since the process began, Rounds and Failed
	// rounds.
	Applied, Pruned, Rounds, Failed int
}

// FileStatus is what became of one file.
type FileStatus struct {
	Path    string
	Objects int
	Errors  []string
}

// PruneStatus is what becomes of objects that left the directory.
type PruneStatus struct {
	Enabled bool
	// Held says why nothing is deleted; Count is how many would be. Until is when
	// they will be if nothing changes; zero when something must.
	Held  string
	Count int
	Until time.Time
	// Kept are protected by their annotation, or by the API: then it says so.
	Kept []string
}

// Waiting is an object that something must happen to first.
type Waiting struct{ Object, Reason string }

// Failing counts what is not as it should be.
func (s Status) Failing() int {
	n := len(s.Errors)
	if s.Problem != "" {
		n++
	}
	for _, f := range s.Files {
		n += len(f.Errors)
	}
	return n
}

// Status is what came of the last round. It is not to be changed.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// tell makes the status, and logs and records as events what is new in it.
func (s *Source) tell(ctx context.Context, unread error, p Plan, done *outcome) {
	failures := slices.Concat(p.Failures, done.failures)
	status := s.next(unread, p, done, failures)
	s.mu.Lock()
	s.status = status
	s.mu.Unlock()
	s.report(ctx, status, failures, done)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.round) // who waited for it finds its events, too
	s.round = make(chan struct{})
}

// next is the status after a round.
func (s *Source) next(unread error, p Plan, done *outcome, failures []Failure) Status {
	now := time.Now()
	before := s.Status()
	status := Status{
		Dir: s.o.Dir, ID: s.id, Revision: s.snapshot.Revision, Checked: now, Succeeded: before.Succeeded,
		Objects: s.snapshot.Objects(), Settled: p.Settled + len(p.Apply) - countApply(done.failures) - done.unmade,
		Prune: PruneStatus{Enabled: s.o.Prune, Held: p.Held, Count: p.HeldCount},
		Notes: s.snapshot.Notes, Rounds: before.Rounds + 1, Failed: before.Failed,
		Applied: before.Applied + len(done.changed), Pruned: before.Pruned + len(done.pruned),
	}
	if unread != nil {
		status.Problem = unread.Error()
	} else if s.read && len(s.snapshot.Files) == 0 {
		status.Problem = s.o.Dir + ": there are no manifests (*.yaml, *.yml or *.json) in this directory: is it mounted?"
	}
	if p.HeldFor > 0 {
		status.Prune.Until = now.Add(p.HeldFor)
	}
	if p.Held == "" && len(p.Prune) > 0 && len(done.failures) > 0 && countApply(done.failures) > 0 {
		status.Prune.Held, status.Prune.Count = "not everything could be applied", len(p.Prune)
	}
	for _, id := range p.Kept {
		text := name(id)
		if undeletable(id) {
			text += " (it cannot be deleted)"
		}
		status.Prune.Kept = append(status.Prune.Kept, text)
	}
	status.Waiting = waiting(p, done)
	status.Files, status.Errors = byFile(s.snapshot.Files, failures)
	if status.Failing() == 0 {
		status.Succeeded = now
	} else {
		status.Failed++
	}
	return status
}

// countApply counts what could not be applied, among what failed.
func countApply(failures []Failure) int {
	n := 0
	for _, f := range failures {
		if f.Path != "" {
			n++
		}
	}
	return n
}

func waiting(p Plan, done *outcome) []Waiting {
	var all []Waiting
	for _, id := range p.Waiting {
		all = append(all, Waiting{name(id), "it was deleted, and is made again once it is gone"})
	}
	for id, reason := range done.waits {
		all = append(all, Waiting{name(id), reason})
	}
	slices.SortFunc(all, func(a, b Waiting) int { return cmp.Compare(a.Object, b.Object) })
	return all
}

// byFile puts failures where they belong.
func byFile(files []File, failures []Failure) (all []FileStatus, others []string) {
	index := map[string]int{}
	for i, f := range files {
		index[f.Path] = i
		all = append(all, FileStatus{Path: f.Path, Objects: len(f.Objects)})
	}
	for _, f := range failures {
		text := oneLine(f.Err)
		if i, ok := index[f.Path]; ok && f.Path != "" {
			all[i].Errors = append(all[i].Errors, text)
		} else {
			others = append(others, text)
		}
	}
	for _, f := range all {
		slices.Sort(f.Errors)
	}
	slices.Sort(others)
	return all, others
}

// longest is how much of an error, or in an event, is told.
const longest = 1000

func oneLine(err error) string {
	return brief.Text(strings.Join(strings.Fields(err.Error()), " "), longest)
}

// told is what was said, so that it is said once.
type told map[string]Failure

// report says what is new: a failure once, and not each round that it lasts.
func (s *Source) report(ctx context.Context, status Status, failures []Failure, done *outcome) {
	now := told{}
	for _, f := range failures {
		now[oneLine(f.Err)] = f
	}
	if status.Problem != "" {
		now[status.Problem] = Failure{}
	}
	if held := status.Prune.Held; held != "" {
		now[fmt.Sprintf("nothing is pruned (%d left the directory): %s", status.Prune.Count, held)] = Failure{}
	}
	for _, text := range slices.Sorted(maps.Keys(now)) {
		if _, before := s.told[text]; !before {
			f := now[text]
			s.o.Logger.Info("Manifests are not as they should be", "problem", text, "file", f.Path, "revision", status.Revision)
			s.event(ctx, f.Object, warning, text)
		}
	}
	for _, note := range status.Notes {
		key := "note: " + note
		if now[key] = (Failure{}); !has(s.told, key) {
			s.o.Logger.Info("A note on the manifests", "note", note)
		}
	}
	s.reportChanges(ctx, status, done)
	if len(failuresIn(now)) == 0 && len(failuresIn(s.told)) > 0 {
		s.o.Logger.Info("Manifests are as they should be again", "directory", s.o.Dir, "revision", status.Revision)
	}
	s.told = now
}

func has(t told, key string) bool {
	_, ok := t[key]
	return ok
}

// failuresIn leaves out the notes.
func failuresIn(t told) []string {
	return slices.DeleteFunc(slices.Collect(maps.Keys(t)), func(k string) bool { return strings.HasPrefix(k, "note: ") })
}

func (s *Source) reportChanges(ctx context.Context, status Status, done *outcome) {
	if len(done.changed)+len(done.pruned) == 0 {
		return
	}
	s.o.Logger.Info("Manifests were applied", "directory", s.o.Dir, "revision", status.Revision,
		"applied", names(done.changed), "pruned", names(done.pruned))
	text := fmt.Sprintf("%d applied, %d pruned", len(done.changed), len(done.pruned))
	if status.Revision != "" {
		text = "revision " + status.Revision + ": " + text
	}
	s.event(ctx, manifest.Identity{}, normal, text)
}

// names of objects for a log line, as many as fit into one.
func names(ids []manifest.Identity) string {
	const most = 20
	ids = slices.SortedFunc(slices.Values(ids), compare)
	texts := make([]string, 0, most+1)
	for i, id := range ids {
		if i == most {
			texts = append(texts, fmt.Sprintf("and %d more", len(ids)-most))
			break
		}
		texts = append(texts, name(id))
	}
	return strings.Join(texts, ", ")
}
