// Package plane starts real Kubernetes API servers for tests:
//
//	hack/kube-apiserver start ─▶ Cluster ─▶ Install: definitions, service account, rights
//	                                          │
//	                              its kubeconfig, for sandboxd serve --kubeconfig
package plane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/cluster"
)

// scriptVar names hack/kube-apiserver.
const scriptVar = "SANDBOXD_KUBE_APISERVER"

// patience is how long things may take on a busy machine.
const patience = 5 * time.Minute

// Required skips a test where there is no real API server to be had. `make
// test-kube-apiserver` has one built.
func Required(t testing.TB) {
	t.Helper()
	if os.Getenv(scriptVar) == "" {
		t.Skipf("$%s does not name hack/kube-apiserver: run make test-kube-apiserver", scriptVar)
	}
}

// Cluster is an API server with its etcd.
type Cluster struct {
	// Dir holds all that it keeps.
	Dir string
	// Kubeconfig is that of a user who may do everything.
	Kubeconfig string
}

// Start starts a cluster in a folder, or starts it again.
func Start(dir string) (*Cluster, error) {
	c := &Cluster{Dir: dir}
	return c, c.run("start")
}

// Stop ends it. What it keeps stays.
func (c *Cluster) Stop() error { return c.run("stop") }

// Again starts it again after Stop.
func (c *Cluster) Again() error { return c.run("start") }

// Restart ends the API server alone, and starts it again.
func (c *Cluster) Restart() error { return c.run("restart") }

func (c *Cluster) run(command string) error {
	var out, errs bytes.Buffer
	cmd := exec.Command(os.Getenv(scriptVar), command, c.Dir)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kube-apiserver %s: %w: %s", command, err, errs.String())
	}
	for line := range strings.Lines(out.String()) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "kubeconfig="); ok {
			c.Kubeconfig = value
		}
	}
	return nil
}

// Config reaches the API server as a user who may do everything.
func (c *Cluster) Config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err == nil {
		config.QPS = -1
	}
	return config, err
}

// Install installs what `sandboxd crds` prints, and makes the kubeconfig of the service
// account that a daemon is to have.
func (c *Cluster) Install(ctx context.Context) (kubeconfig string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	config, err := c.Config()
	if err != nil {
		return "", err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return "", err
	}
	entries, err := v1.CRDs.ReadDir("crds")
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		raw, err := v1.CRDs.ReadFile("crds/" + e.Name())
		if err != nil {
			return "", err
		}
		if err := Apply(ctx, client, string(raw)); err != nil {
			return "", err
		}
	}
	if err := Apply(ctx, client, cluster.RBAC); err != nil {
		return "", err
	}
	if err := established(ctx, client); err != nil {
		return "", err
	}
	return c.account(ctx, config)
}

// Apply applies manifests.
func Apply(ctx context.Context, client dynamic.Interface, manifests string) error {
	reader := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	for {
		u := &unstructured.Unstructured{}
		err := reader.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if u.Object == nil {
			continue
		}
		plural, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
		if u.GetKind() == "Sandbox" {
			plural.Resource = "sandboxes" // which is not guessed
		}
		resource := client.Resource(plural)
		var objects dynamic.ResourceInterface = resource
		if u.GetNamespace() != "" {
			objects = resource.Namespace(u.GetNamespace())
		}
		if _, err := objects.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			return fmt.Errorf("apply %s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
}

// established waits until the kinds are served.
func established(ctx context.Context, client dynamic.Interface) error {
	for _, plural := range []string{"goldenimages", "sandboxes", "sandboxsnapshots"} {
		resource := client.Resource(schema.GroupVersionResource{Group: v1.GroupVersion.Group, Version: v1.GroupVersion.Version, Resource: plural})
		for {
			_, err := resource.List(ctx, metav1.ListOptions{})
			if err == nil {
				break
			}
			if !apierrors.IsNotFound(err) || ctx.Err() != nil {
				return fmt.Errorf("%s are not served: %w", plural, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// account writes the kubeconfig of the service account.
func (c *Cluster) account(ctx context.Context, config *rest.Config) (string, error) {
	core, err := corev1.NewForConfig(config)
	if err != nil {
		return "", err
	}
	const account = "sandboxd"
	token, err := core.ServiceAccounts(cluster.Namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("service account %s: %w", account, err)
	}
	path := filepath.Join(c.Dir, account+".kubeconfig")
	return path, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: config.Host, CertificateAuthority: config.CAFile}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{account: {Token: token.Status.Token}},
		Contexts:       map[string]*clientcmdapi.Context{account: {Cluster: "test", AuthInfo: account}},
		CurrentContext: account,
	}, path)
}
