package job_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sandboxd.dev/sandboxd/controller/job"
)

func TestRunner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan string, 10)
		r := job.NewRunner[string, int, string](t.Context(), 2, func(k string) { ended <- k })
		var starts atomic.Int32
		work := func(_ context.Context, report func(int)) (string, error) {
			starts.Add(1)
			report(50)
			time.Sleep(time.Minute)
			return "made", nil
		}
		if s := r.Ensure("a", work); s.Done {
			t.Fatal("a new job is done at once")
		}
		synctest.Wait()
		if s := r.Ensure("a", work); s.Done || s.Progress != 50 {
			t.Errorf("while running: %+v, want progress 50", s)
		}
		if !r.Active(is("a")) || r.Active(is("b")) {
			t.Error("Active does not tell what runs")
		}
		r.Forget("a") // must not restart a running job
		if k := <-ended; k != "a" {
			t.Errorf("notified of %q", k)
		}
		if s := r.Ensure("a", work); !s.Done || s.Result != "made" || s.Err != nil {
			t.Errorf("after its end: %+v", s)
		}
		if n := starts.Load(); n != 1 {
			t.Errorf("started %d times, want once", n)
		}
		r.Forget("a")
		if s := r.Ensure("a", work); s.Done {
			t.Error("a forgotten job is still done")
		}
		<-ended
		if n := starts.Load(); n != 2 {
			t.Errorf("started %d times, want twice", n)
		}
	})
}

func TestErrorIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		r := job.NewRunner[string, int, string](t.Context(), 1, func(string) {})
		fail := func(context.Context, func(int)) (string, error) { return "", boom }
		r.Ensure("a", fail)
		synctest.Wait()
		if s := r.Ensure("a", fail); !s.Done || !errors.Is(s.Err, boom) {
			t.Errorf("got %+v, want the error", s)
		}
	})
}

func TestParallelIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := job.NewRunner[string, int, string](t.Context(), 2, func(string) {})
		var now, most atomic.Int32
		work := func(context.Context, func(int)) (string, error) {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			return "", nil
		}
		for _, k := range []string{"a", "b", "c", "d", "e"} {
			r.Ensure(k, work)
		}
		start := time.Now()
		time.Sleep(time.Hour)
		synctest.Wait()
		if most.Load() != 2 || r.Active(func(string) bool { return true }) {
			t.Errorf("at most %d ran at a time, want 2 (since %v)", most.Load(), start)
		}
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var notified atomic.Int32
		r := job.NewRunner[string, int, string](t.Context(), 1, func(string) { notified.Add(1) })
		untilCancelled := func(ctx context.Context, _ func(int)) (string, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // cleaning up
			return "", ctx.Err()
		}
		r.Ensure("a", untilCancelled)
		synctest.Wait()
		r.Ensure("b", untilCancelled) // waits for the slot
		synctest.Wait()
		r.Cancel(is("a"))
		synctest.Wait()
		if !r.Active(is("a")) {
			t.Error("a cancelled job that has not returned must count as active")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if r.Active(is("a")) || !r.Active(is("b")) {
			t.Error("a should be gone, b should have got its slot")
		}
		if notified.Load() != 0 {
			t.Error("a cancelled job must not notify")
		}
		r.Cancel(func(string) bool { return true })
		r.Wait()
		if r.Active(is("b")) {
			t.Error("b is still active")
		}
	})
}

func TestContextEndsJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := job.NewRunner[string, int, string](ctx, 1, func(string) { t.Error("notified after the end") })
		r.Ensure("a", func(ctx context.Context, _ func(int)) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		cancel()
		r.Wait()
	})
}

func is(want string) func(string) bool { return func(k string) bool { return k == want } }
