package kubeapiserver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"sandboxd.dev/sandboxd/cluster"
	"sandboxd.dev/sandboxd/test/kubeapiserver/plane"
)

var leaseResource = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}

func leases(client dynamic.Interface) dynamic.ResourceInterface {
	return client.Resource(leaseResource).Namespace(cluster.Namespace)
}

// TestOneHost: of two daemons, one makes machines. The other waits, says so, and takes
// over only when it is told that the first is gone for good.
func TestOneHost(t *testing.T) {
	c, kubeconfig := startCluster(t)
	one, two := newHost(t, "one", kubeconfig), newHost(t, "two", kubeconfig)
	one.start()
	one.apply(tiny+sandbox("web"), "--wait")
	one.run("exec", "web", "--", "sh", "-c", "echo one > /root/mark")

	two.start()
	waits := func(says string) {
		t.Helper()
		two.eventually("says that it waits", func() error {
			_, err := two.ask("/readyz")
			if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), says) {
				return fmt.Errorf("readyz: %w", err)
			}
			return nil
		})
	}
	waits("which holds its Lease")
	two.logs("the cluster belongs to another host")
	if out, err := two.try("", "doctor", "--socket", two.path("s")); !strings.Contains(out, "the cluster belongs to another host") {
		t.Errorf("doctor: %v: %s", err, out)
	}
	// What is asked for on either host is made on the first; the second has no machine
	// to reach into.
	two.apply(sandbox("more"))
	two.run("wait", "sandbox/more", "--for=condition=Ready", "--timeout=4m")
	if out := one.run("exec", "more", "--", "hostname"); out != "more" {
		t.Errorf("hostname %q", out)
	}
	if out, err := two.try("", "exec", "more", "--", "hostname"); err == nil {
		t.Errorf("the second host has a machine: %s", out)
	}

	// It waits for a host that is stopped, whose machines may still run.
	one.end(syscall.SIGTERM)
	waits("which is stopped now")
	client := admin(t, c)
	must(t, leases(client).Delete(t.Context(), cluster.LeaseName, metav1.DeleteOptions{}))
	two.eventually("takes over", func() error { _, err := two.ask("/readyz"); return err })
	// The first one comes back, and waits now.
	one.start()
	one.logs("the cluster belongs to another host")
}

// TestLostLease: a host that loses its Lease ends its controllers and touches no machine.
func TestLostLease(t *testing.T) {
	c, kubeconfig := startCluster(t)
	h := newHost(t, "host", kubeconfig)
	h.start()
	h.apply(tiny+sandbox("web"), "--wait")
	h.run("exec", "web", "--", "sh", "-c", "echo here > /root/mark")
	client := admin(t, c)
	label := func(instance, holder string) {
		t.Helper()
		patch := fmt.Sprintf(`{"metadata":{"labels":{"sandboxd.dev/instance":%q}},"spec":{"holderIdentity":%q}}`, instance, holder)
		_, err := leases(client).Patch(t.Context(), cluster.LeaseName, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		must(t, err)
	}
	lease, err := leases(client).Get(t.Context(), cluster.LeaseName, metav1.GetOptions{})
	must(t, err)
	own := lease.GetLabels()["sandboxd.dev/instance"]

	label("0a0a0a0a-0000-4000-8000-000000000000", "another")
	h.eventually("says that it waits", func() error {
		if _, err := h.ask("/readyz"); err == nil {
			return errors.New("it is ready")
		}
		return nil
	})
	if out, err := h.try("", "gc"); err == nil || !strings.Contains(err.Error(), "nothing is collected on this host now: the ") {
		t.Errorf("gc of a host that waits: %v: %s", err, out)
	}
	// Nobody works: what is asked for stays so, and what there is runs on.
	h.apply(sandbox("later"))
	h.run("stop", "web")
	if out := h.run("exec", "web", "--", "cat", "/root/mark"); out != "here" {
		t.Errorf("the mark is %q", out)
	}
	label(own, "")
	h.run("wait", "sandbox/later", "--for=condition=Ready", "--timeout=4m")
	h.want("Stopped", "get", "sandbox", "web", "-o", "jsonpath={.status.phase}")
}

// TestAnotherCluster: a daemon ends rather than work for another cluster than its
// host's, or for one that has lost its objects, and says what to do.
func TestAnotherCluster(t *testing.T) {
	c, kubeconfig := startCluster(t)
	h := newHost(t, "host", kubeconfig)
	h.start()
	h.apply(tiny+sandbox("web"), "--wait")

	// The same address, with nothing behind it any more.
	must(t, c.Stop())
	must(t, os.RemoveAll(c.Dir+"/etcd"))
	must(t, c.Again())
	h.eventually("says what is missing", func() error {
		_, err := h.ask("/readyz")
		if err == nil || !strings.Contains(err.Error(), "401") && !strings.Contains(err.Error(), "nauthorized") && !strings.Contains(err.Error(), "forbidden") && !strings.Contains(err.Error(), "definition") {
			return fmt.Errorf("readyz: %w", err)
		}
		return nil
	})
	if strings.Contains(h.log(), "collected") {
		t.Error("something was collected")
	}
	h.end(syscall.SIGTERM)

	fresh, err := c.Install(t.Context())
	must(t, err)
	h.kubeconfig = fresh
	serve := exec.Command(os.Getenv("SANDBOXD_BIN"), "serve", "--simulate", "--data-dir", h.path("data"), "--socket", h.path("s"), "--kubeconfig", fresh)
	serve.Env = append(os.Environ(), "SANDBOXD_CONFIG=/dev/null")
	out, err := serve.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not the cluster that this host belongs to: it is another cluster") {
		t.Fatalf("with another cluster: %v: %s", err, out)
	}
	_, accept, found := strings.Cut(strings.TrimSpace(string(out)), "--cluster-accept ")
	if !found {
		t.Fatalf("it does not say how it is accepted: %s", out)
	}
	h.flags = []string{"--cluster-accept", accept}
	h.start()
	h.apply(tiny+sandbox("web"), "--wait")
}

// TestSetBack: etcd is restored from a backup that does not have an object. Its machine
// is no garbage.
func TestSetBack(t *testing.T) {
	c, kubeconfig := startCluster(t)
	h := newHost(t, "host", kubeconfig)
	h.start()
	h.apply(tiny+sandbox("old"), "--wait")
	must(t, c.Stop())
	must(t, os.CopyFS(c.Dir+"/backup", os.DirFS(c.Dir+"/etcd")))
	must(t, c.Again())
	h.eventually("is ready again", func() error { _, err := h.ask("/readyz"); return err })
	h.apply(sandbox("young"))
	h.run("wait", "sandbox/young", "--for=condition=Ready", "--timeout=4m")
	h.want("nothing is left over", "gc") // and the resource version is noted

	must(t, c.Stop())
	must(t, os.RemoveAll(c.Dir+"/etcd"))
	must(t, os.Rename(c.Dir+"/backup", c.Dir+"/etcd"))
	must(t, c.Again())
	h.eventually("says that the cluster was set back", func() error {
		out, err := h.try("", "gc")
		if err == nil || !strings.Contains(err.Error(), "the cluster was set back") {
			return fmt.Errorf("gc: %w: %s", err, out)
		}
		return nil
	})
	h.want("old", "get", "sandboxes", "-o", "name")
	if out := h.run("get", "sandboxes", "-o", "name"); strings.Contains(out, "young") {
		t.Fatalf("the backup has the object: %s", out)
	}
	// What young has is garbage to a sweep that does not see that: it is left to several,
	// which come every second.
	h.eventually("sweeps refuse to collect", func() error {
		if n := strings.Count(h.log(), "the cluster was set back"); n < 3 {
			return fmt.Errorf("%d sweeps have", n)
		}
		return nil
	})
	if strings.Contains(h.log(), "collected: its object is gone") {
		t.Error("something was collected")
	}
}

// TestRights: with its role alone, a daemon works, and its socket's users can use what
// there is and write nothing, also what the controllers may. A role in a namespace is for
// that namespace.
func TestRights(t *testing.T) {
	c, kubeconfig := startCluster(t)
	client := admin(t, c)
	bindings := schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"}
	must(t, client.Resource(bindings).Delete(t.Context(), "sandboxd-socket", metav1.DeleteOptions{}))
	h := newHost(t, "host", kubeconfig)
	h.start()
	if _, err := h.try(tiny, "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("apply without the right: %v", err)
	}
	if out, err := h.ask("/api/v1/namespaces/default/secrets"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("the socket serves secrets: %v: %s", err, out)
	}
	must(t, applyAs(t.Context(), client, tiny+sandbox("web", "  lifecycle: {ttl: 30s}\n")+sandbox("kept")))
	h.want("True", "get", "sandbox", "kept", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	must(t, applyAs(t.Context(), client, "apiVersion: sandboxd.dev/v1\nkind: SandboxSnapshot\nmetadata: {name: s, namespace: default}\nspec: {sandbox: kept}\n"))
	h.want("Ready", "get", "sandboxsnapshot", "s", "-o", "jsonpath={.status.phase}")
	refused := func(args ...string) {
		t.Helper()
		if out, err := h.try("", args...); err == nil || !strings.Contains(err.Error(), "forbidden") {
			t.Errorf("%v without the right: %v: %s", args, err, out)
		}
	}
	refused("delete", "sandbox", "kept", "--wait=false")
	refused("stop", "kept")
	refused("delete", "sandboxsnapshot", "s", "--wait=false")
	refused("delete", "goldenimage", "tiny", "--wait=false")
	refused("events")
	refusedStatus := func() {
		t.Helper()
		out, err := h.send(http.MethodPatch, "/apis/sandboxd.dev/v1/namespaces/default/sandboxes/kept/status", `{"status":{"phase":"Stopped"}}`)
		if err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("the socket writes a status: %v: %s", err, out)
		}
	}
	refusedStatus()
	may := func(verb, resource, subresource string, want bool) {
		t.Helper()
		group := map[bool]string{true: "", false: "sandboxd.dev"}[resource == "secrets"]
		question := fmt.Sprintf(`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":%q,"group":%q,"resource":%q,"subresource":%q,"namespace":"default","name":"kept"}}}`,
			verb, group, resource, subresource)
		out, err := h.send(http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", question)
		must(t, err)
		if strings.Contains(out, `"allowed":true`) != want {
			t.Errorf("%s %s/%s is said to be allowed: %v: %s", verb, resource, subresource, !want, out)
		}
	}
	// What is told is what the socket does: the daemon itself may other things.
	may("get", "sandboxes", "", true)
	may("delete", "sandboxes", "", false)
	may("patch", "sandboxes", "status", false)
	may("create", "sandboxes", "exec", true)
	may("get", "secrets", "", false)
	if out := h.run("exec", "kept", "--", "hostname"); out != "kept" {
		t.Errorf("hostname %q", out)
	}
	must(t, plane.Apply(t.Context(), client, `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: sandboxd-socket, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: sandboxd-socket}
subjects: [{kind: ServiceAccount, name: sandboxd, namespace: sandboxd-system}]
`))
	h.eventually("the right in the namespace is enough there", func() error { _, err := h.try("", "stop", "kept"); return err })
	refused("delete", "goldenimage", "tiny", "--wait=false")
	refusedStatus()
	may("delete", "sandboxes", "", true)
	may("delete", "goldenimages", "", false)
	may("patch", "sandboxes", "status", false)
	sandboxes := client.Resource(schema.GroupVersionResource{Group: "sandboxd.dev", Version: "v1", Resource: "sandboxes"}).Namespace("default")
	must(t, sandboxes.Delete(t.Context(), "kept", metav1.DeleteOptions{}))
	h.eventually("sandboxes, one of which is over, and the snapshot are gone", func() error {
		out, err := h.try("", "get", "sandboxes,sandboxsnapshots", "-o", "name")
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("there is %s", out)
		}
		return err
	})
	if strings.Contains(strings.ToLower(h.log()), "forbidden") {
		t.Error("the daemon's role is not enough, as its log says")
	}
}

func applyAs(ctx context.Context, client dynamic.Interface, manifests string) error {
	return plane.Apply(ctx, client, strings.ReplaceAll(manifests, "kind: Sandbox\nmetadata: {", "kind: Sandbox\nmetadata: {namespace: default, "))
}
