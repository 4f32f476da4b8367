package cli

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// madeImage is how a command makes a golden image.
type madeImage struct {
	wait    bool
	timeout time.Duration
	dryRun  bool
}

func (m *madeImage) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&m.wait, "wait", true, "Wait until the image is ready")
	cmd.Flags().DurationVar(&m.timeout, "timeout", time.Hour, "How long to wait")
	cmd.Flags().BoolVar(&m.dryRun, "dry-run", false, "Print the manifest instead of applying it")
}

func (a *app) imagePull() *cobra.Command {
	var made madeImage
	var source v1.OCISource
	var provider string
	cmd := &cobra.Command{
		Use:   "pull NAME REFERENCE|FOLDER",
		Short: "Make an image of an artifact in a registry or an OCI layout",
		Long: `Make a golden image whose source.oci is an artifact in a registry, HOST[:PORT]/NAME:TAG
or HOST[:PORT]/NAME@sha256:HEX, or in a folder of the daemon's host in the OCI image
layout. It is what a manifest does; --dry-run prints that. With --digest, the digest
that push has printed, nothing else is taken.`,
		Example: examples(`
sandboxd image pull debian registry.example/images/debian:13
sandboxd image pull debian /var/lib/sandboxd/images/layout --tag 13 --digest sha256:…`),
		Args: wantArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if isFolder(args[1]) {
				path, err := filepath.Abs(args[1])
				if err != nil {
					return err
				}
				source.Layout = path
			} else {
				source.Reference = args[1]
			}
			img := &v1.GoldenImage{}
			img.Name = plainName(args[0])
			img.Spec.Provider = v1.ProviderName(provider)
			img.Spec.Source.OCI = &source
			return a.makeImage(cmd.Context(), img, made)
		},
	}
	made.add(cmd)
	cmd.Flags().StringVar(&source.Tag, "tag", "", "Tag in the folder (default: its only one)")
	cmd.Flags().StringVar(&source.Digest, "digest", "", "Digest that the manifest must have, as sha256:HEX")
	cmd.Flags().BoolVar(&source.PlainHTTP, "plain-http", false, "Speak http to the registry")
	cmd.Flags().StringVar(&provider, "provider", "", "Hypervisor of the image: kvm or virtualbox (default: the daemon's)")
	return a.connected(cmd)
}

func (a *app) promote() *cobra.Command {
	var made madeImage
	var snapshot string
	cmd := &cobra.Command{
		Use:   "promote SANDBOX IMAGE",
		Short: "Make a golden image of a sandbox",
		Long: `Make a golden image of the disk of a sandbox that is stopped, or of one of its
snapshots. It is what a manifest with source.sandbox does, and takes over what the
sandbox's own image says of its machine and guest; --dry-run prints that. The sandbox
may be deleted once the image is ready.`,
		GroupID: groupObjects,
		Example: examples(`
sandboxd promote web web-with-packages
sandboxd promote team/web web-clean --snapshot clean`),
		Args: wantArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			img, err := a.promotion(cmd.Context(), args[0], plainName(args[1]), snapshot)
			if err != nil {
				return err
			}
			return a.makeImage(cmd.Context(), img, made)
		},
	}
	made.add(cmd)
	cmd.Flags().StringVar(&snapshot, "snapshot", "", "Snapshot of the sandbox; without one it must be stopped")
	cmd.ValidArgsFunction = a.completeSandboxes()
	_ = cmd.RegisterFlagCompletionFunc("snapshot", a.completeSnapshots)
	return a.namespaced(cmd)
}

// promotion is the manifest of an image that is to be made of a sandbox.
func (a *app) promotion(ctx context.Context, sandbox, name, snapshot string) (*v1.GoldenImage, error) {
	key, err := a.sandboxKey(sandbox)
	if err != nil {
		return nil, err
	}
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	sbx := &v1.Sandbox{}
	if err := c.Get(ctx, key, sbx); err != nil {
		return nil, err
	}
	img := &v1.GoldenImage{}
	img.Name = name
	img.Spec.Provider = sbx.Status.Provider
	img.Spec.Source.Sandbox = &v1.SandboxSource{Namespace: key.Namespace, Name: key.Name, Snapshot: snapshot}
	own := &v1.GoldenImage{}
	switch err := c.Get(ctx, crclient.ObjectKey{Name: sbx.Spec.Image}, own); {
	case err == nil:
		img.Spec.Machine, img.Spec.Guest = own.Spec.Machine, own.Spec.Guest
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	return img, nil
}

// manifestOf is what a person would write of an image: nothing that is empty.
func manifestOf(img *v1.GoldenImage) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(img)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
	if spec, ok := content["spec"].(map[string]any); ok {
		maps.DeleteFunc(spec, func(_ string, value any) bool { part, ok := value.(map[string]any); return ok && len(part) == 0 })
	}
	return &unstructured.Unstructured{Object: content}, nil
}

// makeImage creates an image and waits for it, or prints it.
func (a *app) makeImage(ctx context.Context, img *v1.GoldenImage, made madeImage) error {
	kind := v1.GroupVersion.WithKind("GoldenImage")
	img.SetGroupVersionKind(kind)
	if made.dryRun {
		o := output{format: "yaml"}
		printer, err := o.printer()
		if err != nil {
			return err
		}
		u, err := manifestOf(img)
		if err != nil {
			return err
		}
		return printer.PrintObj(u, a.Out)
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	if err := c.Create(ctx, img); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("there is an image %q already: choose another name, or apply a manifest with another source for a new revision of it", img.Name)
		}
		return err
	}
	fmt.Fprintf(a.Out, "goldenimage/%s created\n", img.Name)
	if !made.wait {
		return nil
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	r, err := api.OfKind(kind)
	if err != nil {
		return err
	}
	ready, err := parseGoal("condition=Ready")
	if err != nil {
		return err
	}
	return a.waitFor(ctx, api, []awaited{{Resource: r, name: img.Name, goal: ready}}, made.timeout, func(o awaited) {
		fmt.Fprintf(a.Out, "%s is ready\n", o.ref())
	})
}
