package clients_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"sandboxd.dev/sandboxd/test/daemon"
)

// TestRetryOnConflict: writers that read, add one and write, and begin again when
// somebody else came between, lose no addition.
func TestRetryOnConflict(t *testing.T) {
	const writers, additions = 16, 10
	d := daemon.Start(t)
	client, err := kubernetes.NewForConfig(d.REST())
	must(t, err)
	counters := client.CoreV1().Secrets("default")
	_, err = counters.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string][]byte{"n": []byte("0")}}, metav1.CreateOptions{})
	must(t, err)
	// retry.DefaultRetry gives up after five conflicts, of which sixteen writers make more.
	patient := wait.Backoff{Steps: 10000, Duration: time.Millisecond, Factor: 1, Jitter: 1}
	conflicts := make([]int, writers)
	group, ctx := errgroup.WithContext(t.Context())
	for w := range writers {
		group.Go(func() error {
			for range additions {
				attempts := 0
				err := retry.RetryOnConflict(patient, func() error {
					attempts++
					counter, err := counters.Get(ctx, "counter", metav1.GetOptions{})
					if err != nil {
						return err
					}
					n, err := strconv.Atoi(string(counter.Data["n"]))
					if err != nil {
						return err
					}
					counter.Data["n"] = []byte(strconv.Itoa(n + 1))
					_, err = counters.Update(ctx, counter, metav1.UpdateOptions{})
					return err
				})
				if err != nil {
					return fmt.Errorf("writer %d: %w", w, err)
				}
				conflicts[w] += attempts - 1
			}
			return nil
		})
	}
	must(t, group.Wait())
	counter, err := counters.Get(context.Background(), "counter", metav1.GetOptions{})
	must(t, err)
	if got := string(counter.Data["n"]); got != strconv.Itoa(writers*additions) {
		t.Errorf("%d writers added %d each, and the sum is %s", writers, additions, got)
	}
	sum := 0
	for _, n := range conflicts {
		sum += n
	}
	if sum == 0 {
		t.Error("there was no conflict: nothing was tried")
	}
	t.Logf("%d additions met %d conflicts", writers*additions, sum)
}
