package crash_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/store/bolt"
)

// outcome of one life of an operation.
type outcome struct {
	points    [columns]int
	killed    bool
	where     string
	converged bool
	findings  findings
	lost      []string
	err       error
}

// ground is a host that control planes are started on, one after the other.
type ground interface {
	host
	// begin starts one that dies as told, and writes down what it stores.
	begin(d *death, j *journal) (*plane, error)
	// store is the path of its store.
	store() string
	// things lists what there is of ours, others what there is of others in all
	// detail, and was what that was at first.
	things(ctx context.Context) ([]providers.Resource, error)
	others(ctx context.Context) ([]string, error)
	was() []string
}

// life of one operation.
type life struct {
	op      operation
	host    ground
	journal *journal
	death   *death
	plane   *plane
	out     outcome
	lag     time.Duration // between two looks
}

// live lives an operation on a host, and dies at a point, or nowhere.
func live(op operation, at point, on ground) outcome {
	l := &life{op: op, host: on, journal: newJournal(), lag: 2 * time.Millisecond}
	if _, simulated := on.(*simulated); !simulated {
		l.lag = 100 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	if err := l.run(ctx, at); err != nil {
		l.out.err = err
	}
	if l.plane != nil {
		if err := l.plane.end(); err != nil && l.out.err == nil {
			l.out.err = fmt.Errorf("the control plane does not end: %w", err)
		}
	}
	return l.out
}

func (l *life) run(ctx context.Context, at point) (err error) {
	l.death = newDeath(at)
	if l.plane, err = l.host.begin(l.death, l.journal); err != nil {
		return err
	}
	for _, d := range l.op.before {
		if err := l.do(ctx, d); err != nil {
			return fmt.Errorf("before: %w", err)
		}
	}
	l.death.arm()
	if l.op.restart {
		if err := l.restart(ctx, at); err != nil {
			return err
		}
	}
	for _, d := range l.op.deeds {
		if err := l.do(ctx, d); err != nil {
			return err
		}
	}
	if at.n > 0 && !l.out.killed && l.death.hasStruck() == "" {
		select {
		case <-l.death.died:
			if err := l.revive(ctx); err != nil {
				return err
			}
		case <-time.After(2 * pace): // it had fewer points this time
		}
	}
	if !l.out.killed {
		l.death.disarm()
		l.out.points = l.death.points()
		l.out.where = l.death.hasStruck()
		l.out.killed = l.out.where != ""
	}
	if err := l.eventually(ctx, l.op.deeds[len(l.op.deeds)-1].until); err != nil {
		return fmt.Errorf("it did not last: %w", err)
	}
	if err := l.atRest(ctx); err != nil {
		return err
	}
	l.out.converged = true
	return l.tearDown(ctx)
}

// restart starts another control plane, which may die while it does.
func (l *life) restart(ctx context.Context, at point) (err error) {
	if err = l.plane.end(); err != nil {
		return err
	}
	l.death = newDeath(at)
	l.death.arm()
	if l.plane, err = l.host.begin(l.death, l.journal); err == nil {
		return nil
	}
	select {
	case <-l.death.died:
		l.plane = nil
		return l.revive(ctx)
	default:
		return err
	}
}

// do does a deed, again by the next control plane if this one dies before it is
// acknowledged.
func (l *life) do(ctx context.Context, d deed) error {
	err := l.eventually(ctx, func(s stage) error {
		s, cancel := l.untilDeath(s)
		defer cancel()
		return d.write(s)
	})
	if err != nil {
		return fmt.Errorf("a write is refused: %w", err)
	}
	return l.eventually(ctx, d.until)
}

func (l *life) untilDeath(s stage) (stage, func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	death := l.death
	go func() {
		select {
		case <-death.died:
			cancel()
		case <-ctx.Done():
		}
	}()
	s.ctx = ctx
	return s, cancel
}

// eventually waits for something to be so, and revives a control plane that dies
// meanwhile.
func (l *life) eventually(ctx context.Context, f func(stage) error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(l.lag) {
		err := f(stage{ctx, l.plane.client, l.host})
		select {
		case <-l.death.died:
			if l.out.killed {
				break
			}
			if reviving := l.revive(ctx); reviving != nil {
				return reviving
			}
			if err != nil {
				continue
			}
		default:
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// revive buries the dead, looks at what it has left, and starts the next.
func (l *life) revive(ctx context.Context) error {
	l.out.killed, l.out.where = true, l.death.epitaph()
	if l.plane != nil {
		if err := l.plane.end(); err != nil {
			return fmt.Errorf("the dead does not end: %w", err)
		}
	}
	l.out.points = l.death.points()
	file, err := bolt.Open(l.host.store(), bolt.Options{})
	if err != nil {
		return fmt.Errorf("the store does not open after the death: %w", err)
	}
	l.out.lost = l.journal.lost(ctx, file)
	if err := file.Close(); err != nil {
		return err
	}
	var left scene
	if left.things, err = l.host.things(ctx); err != nil {
		return err
	}
	if left.others, err = l.host.others(ctx); err != nil {
		return err
	}
	l.out.findings.duplicates = left.duplicates()
	l.out.findings.foreign = differences(l.host.was(), left.others)
	l.death = newDeath(point{})
	l.plane, err = l.host.begin(l.death, l.journal)
	return err
}

// atRest waits until the audit has nothing to say.
func (l *life) atRest(ctx context.Context) error {
	if l.op.check != nil {
		if err := l.eventually(ctx, l.op.check); err != nil {
			return err
		}
	}
	return l.audited(ctx)
}

// look sees everything, while nobody else is at work.
func (l *life) look(ctx context.Context, c client.Reader) (s scene, err error) {
	if s.things, err = l.host.things(ctx); err != nil {
		return s, err
	}
	if s.others, err = l.host.others(ctx); err != nil {
		return s, err
	}
	if err := s.objects(ctx, c); err != nil || !l.op.restarts {
		return s, err
	}
	for i := range s.sandboxes {
		s.sandboxes[i].Status.Restarts = 0 // its machine may have ended
	}
	return s, nil
}

func (l *life) audited(ctx context.Context) error {
	err := l.eventually(ctx, func(s stage) error {
		now, err := l.look(ctx, s.client)
		if err != nil {
			return err
		}
		if f := audit(now, l.host.was()); !f.none() {
			return f
		}
		return nil
	})
	var f findings
	if errors.As(err, &f) {
		l.out.findings.orphans = append(l.out.findings.orphans, f.orphans...)
		l.out.findings.duplicates = append(l.out.findings.duplicates, f.duplicates...)
		l.out.findings.foreign = append(l.out.findings.foreign, f.foreign...)
	}
	return err
}

// tearDown deletes everything, after which nothing may be left.
func (l *life) tearDown(ctx context.Context) error {
	for _, kind := range []client.Object{&v1.SandboxSnapshot{}, &v1.Sandbox{}} {
		if err := l.plane.client.DeleteAllOf(ctx, kind, client.InNamespace("default")); err != nil {
			return fmt.Errorf("tear down: %w", err)
		}
	}
	err := l.eventually(ctx, func(s stage) error {
		var sandboxes v1.SandboxList
		if err := s.client.List(ctx, &sandboxes); err != nil || len(sandboxes.Items) > 0 {
			return fmt.Errorf("%d sandboxes are still there: %w", len(sandboxes.Items), errors.Join(err))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tear down: %w", err)
	}
	err = l.eventually(ctx, func(s stage) error {
		if err := s.client.DeleteAllOf(ctx, &v1.GoldenImage{}); err != nil {
			return err
		}
		now, err := l.look(ctx, s.client)
		if err != nil {
			return err
		}
		if n := len(now.images) + len(now.snapshots); n > 0 {
			return fmt.Errorf("%d objects are still there", n)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tear down: %w", err)
	}
	return l.audited(ctx)
}
