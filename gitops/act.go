package gitops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sandboxd.dev/sandboxd/manifest"
)

// outcome is what came of a plan.
type outcome struct {
	mu sync.Mutex
	// changed were made or changed, and pruned deleted.
	changed, pruned []manifest.Identity
	// waits are what cannot be made, or deleted, yet, with the reason; unmade is how many
	// of them are to be made.
	waits    map[manifest.Identity]string
	unmade   int
	failures []Failure
}

func (o *outcome) fail(f Failure) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failures = append(o.failures, f)
}

// parallel is how many requests are made at a time.
const parallel = 16

// act applies, and if that went well prunes.
func (s *Source) act(ctx context.Context, p Plan) *outcome {
	done := &outcome{waits: map[manifest.Identity]string{}}
	for _, group := range manifest.InOrder(p.Apply) {
		each(group, func(t Target) { s.apply(ctx, t, done) })
	}
	if len(done.failures) > 0 || ctx.Err() != nil {
		return done
	}
	for _, group := range manifest.Reversed(p.Prune) {
		each(group, func(l Live) { s.prune(ctx, l, done) })
	}
	return done
}

func each[T any](all []T, do func(T)) {
	group := errgroup.Group{}
	group.SetLimit(parallel)
	for _, one := range all {
		group.Go(func() error { do(one); return nil })
	}
	_ = group.Wait() // no function returns an error
}

// apply makes an object as its manifest says, by server-side apply. Fields that
// others have set are taken over: the directory is where it is decided what they
// are, or it would not name them.
func (s *Source) apply(ctx context.Context, t Target, done *outcome) {
	id := manifest.IdentityOf(t)
	k, _ := kindOf(id.Kind)
	raw, err := json.Marshal(t.Object.Object)
	if err != nil {
		done.fail(Failure{t.Path, id, t.Errorf("%w", err)})
		return
	}
	force := true
	after, err := s.objects.Resource(k.gvr()).Namespace(id.Namespace).Patch(ctx, id.Name, types.ApplyPatchType, raw,
		metav1.PatchOptions{FieldManager: FieldManager, Force: &force, FieldValidation: metav1.FieldValidationStrict})
	if reason, waits := waitsForImage(err); waits {
		done.mu.Lock()
		defer done.mu.Unlock()
		done.waits[id] = reason
		done.unmade++
		return
	}
	if err != nil {
		done.fail(Failure{t.Path, id, t.Errorf("%s: %w", t.ID(), err)})
		return
	}
	done.mu.Lock()
	defer done.mu.Unlock()
	now := liveOf(id.Kind, after)
	if now.UID != t.Before.UID || now.Mark != t.Before.Mark || now.Edition != t.Before.Edition {
		done.changed = append(done.changed, id)
	}
	s.records[id] = Record{now.UID, t.Digest, now.Mark}
}

// waitsForImage tells whether a sandbox was refused for its image alone, which is being
// deleted. That is no failure, which would keep those from being pruned that the image
// still waits for.
func waitsForImage(err error) (reason string, waits bool) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.IsInvalid(err) || status.Status().Details == nil {
		return "", false
	}
	causes := status.Status().Details.Causes
	if len(causes) != 1 || causes[0].Field != "spec.image" || causes[0].Type != metav1.CauseType(field.ErrorTypeForbidden) {
		return "", false
	}
	return "it is made once its image is not being deleted any more: " + strings.TrimPrefix(causes[0].Message, "Forbidden: "), true
}

// prune deletes an object as it was looked at. What cannot be deleted yet is tried
// again in the next round.
func (s *Source) prune(ctx context.Context, l Live, done *outcome) {
	err := s.empty(ctx, l)
	if err == nil {
		err = s.deleteAsSeen(ctx, l)
	}
	var held heldError
	switch {
	case err == nil:
		done.mu.Lock()
		defer done.mu.Unlock()
		done.pruned = append(done.pruned, l.Identity)
		delete(s.records, l.Identity)
	case apierrors.IsNotFound(err) || errors.Is(err, errOther):
	case errors.As(err, &held) || apierrors.IsConflict(err):
		done.mu.Lock()
		defer done.mu.Unlock()
		done.waits[l.Identity] = err.Error()
	default:
		done.fail(Failure{Object: l.Identity, Err: fmt.Errorf("%s left the directory and cannot be deleted: %w", name(l.Identity), err)})
	}
}

// errOther: the object is not as it was when it was decided to delete it. The watch
// tells soon, and it is decided anew.
var errOther = errors.New("it was changed meanwhile")

// deleteAsSeen deletes an object if it is still to be deleted. Its status may change
// at any time, which is no reason to keep it; anything else is.
func (s *Source) deleteAsSeen(ctx context.Context, l Live) error {
	k, _ := kindOf(l.Kind)
	objects := s.objects.Resource(k.gvr()).Namespace(l.Namespace)
	var err error
	for range 3 {
		u, getErr := objects.Get(ctx, l.Name, metav1.GetOptions{})
		if getErr != nil {
			return getErr
		}
		now := liveOf(l.Kind, u)
		version := now.ResourceVersion
		if now.ResourceVersion = l.ResourceVersion; now != l {
			return errOther
		}
		err = objects.Delete(ctx, l.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &l.UID, ResourceVersion: &version}})
		if !apierrors.IsConflict(err) {
			return err
		}
	}
	return err
}

// name of an object in messages.
func name(id manifest.Identity) string {
	if id.Namespace != "" {
		return fmt.Sprintf("%s %s/%s", id.Kind.Kind, id.Namespace, id.Name)
	}
	return fmt.Sprintf("%s %s", id.Kind.Kind, id.Name)
}
