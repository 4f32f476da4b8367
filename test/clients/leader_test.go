package clients_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/go-logr/logr"

	"sandboxd.dev/sandboxd/test/daemon"
)

const (
	leaseName = "the-leader"
	// The lease is shorter than the usual 15 s, so that the test is.
	leaseDuration = 6 * time.Second
	renewDeadline = 4 * time.Second
	retryPeriod   = 500 * time.Millisecond
	// recordPrecision is what client-go compares leases with: of two renewals within a
	// second it does not see the second one.
	recordPrecision = time.Second
)

// candidate is the program that stands for election: a manager that says when it leads.
// It ends when it no longer does, as controller-runtime wants it.
func candidate(ctx context.Context) error {
	log.SetLogger(logr.Discard())
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	lease, renew, retry := leaseDuration, renewDeadline, retryPeriod
	m, err := manager.New(config, manager.Options{
		LeaderElection: true, LeaderElectionID: leaseName, LeaderElectionNamespace: "default",
		LeaseDuration: &lease, RenewDeadline: &renew, RetryPeriod: &retry,
		Metrics: server.Options{BindAddress: "0"},
	})
	if err != nil {
		return err
	}
	err = m.Add(manager.RunnableFunc(func(ctx context.Context) error {
		fmt.Println("leading")
		<-ctx.Done()
		return nil
	}))
	if err != nil {
		return err
	}
	return m.Start(ctx)
}

// manned is a candidate that runs as a process of its own.
type manned struct {
	cmd  *exec.Cmd
	mu   sync.Mutex
	led  time.Time // when it began to lead
	done chan struct{}
}

func stand(t *testing.T, kubeconfig string) *manned {
	t.Helper()
	m := &manned{cmd: exec.Command(os.Args[0]), done: make(chan struct{})}
	m.cmd.Env = append(os.Environ(), roleVariable+"=candidate", "KUBECONFIG="+kubeconfig)
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	must(t, err)
	must(t, m.cmd.Start())
	t.Cleanup(m.kill)
	go func() {
		defer close(m.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.TrimSpace(lines.Text()) == "leading" {
				m.mu.Lock()
				m.led = time.Now()
				m.mu.Unlock()
			}
		}
		_ = m.cmd.Wait()
	}()
	return m
}

func (m *manned) kill() {
	_ = m.cmd.Process.Kill()
	<-m.done
}

func (m *manned) leads() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.led.IsZero()
}

func (m *manned) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// TestLeaderElection: of two managers one leads. When its process is killed, the other
// leads once the lease has run out, and not before. When the daemon dies and comes back,
// there is one leader: the one that was, or, if it could not renew in time and ended, the
// next.
func TestLeaderElection(t *testing.T) {
	d := daemon.Start(t)
	kubeconfig := d.Kubeconfig(t, "default")
	client, err := kubernetes.NewForConfig(d.REST())
	must(t, err)
	lease := func() *coordinationv1.Lease {
		l, err := client.CoordinationV1().Leases("default").Get(t.Context(), leaseName, metav1.GetOptions{})
		must(t, err)
		return l
	}

	first := stand(t, kubeconfig)
	eventually(t, "the first leads", leading(first))
	var second *manned
	for range 5 {
		second = stand(t, kubeconfig)
		held := lease()
		eventually(t, "the lease is renewed", func() error {
			if lease().Spec.RenewTime.Equal(held.Spec.RenewTime) {
				return errors.New("it has its first time")
			}
			return nil
		})
		if !second.leads() {
			break
		}
		// The first one could not renew in time, where many want the processor. It must end.
		eventually(t, "the first ends, as the second leads", ending(first))
		first = second
	}

	first.kill()
	last := lease()
	eventually(t, "the second leads", leading(second))
	now := lease()
	if *now.Spec.HolderIdentity == *last.Spec.HolderIdentity || *now.Spec.LeaseTransitions != *last.Spec.LeaseTransitions+1 {
		t.Errorf("the lease went from %v to %v", last.Spec, now.Spec)
	}
	after := now.Spec.AcquireTime.Sub(last.Spec.RenewTime.Time)
	if after < leaseDuration-recordPrecision {
		t.Errorf("the second took the lease %v after the first had renewed it for %v", after, leaseDuration)
	}
	t.Logf("the second led %v after the last renewal of the first, with a lease of %v", after.Round(time.Millisecond), leaseDuration)

	third := stand(t, kubeconfig)
	before := lease()
	d.Kill()
	d.Resume()
	eventually(t, "the lease is renewed after the daemon's death", func() error {
		if lease().Spec.RenewTime.Equal(before.Spec.RenewTime) {
			return errors.New("it has its old time")
		}
		return nil
	})
	if now := lease(); *now.Spec.HolderIdentity == *before.Spec.HolderIdentity {
		if third.leads() || second.ended() {
			t.Error("the lease has the old holder, and another leads")
		}
		t.Log("the leader kept the lease")
	} else {
		eventually(t, "the old leader ends", ending(second))
		eventually(t, "the third leads", leading(third))
		t.Log("the leader could not renew in time, ended, and the third leads")
	}
}

func leading(m *manned) func() error {
	return func() error {
		if !m.leads() {
			return errors.New("it does not")
		}
		return nil
	}
}

func ending(m *manned) func() error {
	return func() error {
		if !m.ended() {
			return errors.New("it runs")
		}
		return nil
	}
}
