package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// Identity tells clusters apart. A cluster whose definitions of our kinds were
// removed is another one afterwards: all objects went with them.
type Identity struct {
	// System is the UID of the namespace kube-system.
	System types.UID `json:"system"`
	// Definitions are the UIDs of the CustomResourceDefinitions, by name.
	Definitions map[string]types.UID `json:"definitions"`
}

// Fingerprint is a short form, for people to name a cluster by.
func (i Identity) Fingerprint() string {
	var b strings.Builder
	fmt.Fprintln(&b, i.System)
	for _, name := range slices.Sorted(maps.Keys(i.Definitions)) {
		fmt.Fprintln(&b, name, i.Definitions[name])
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:8])
}

// Equal tells whether both are the same cluster.
func (i Identity) Equal(o Identity) bool {
	return i.System == o.System && maps.Equal(i.Definitions, o.Definitions)
}

// definitions are the names of the definitions of our kinds.
var definitions = []string{"goldenimages.sandboxd.dev", "sandboxes.sandboxd.dev", "sandboxsnapshots.sandboxd.dev"}

var (
	namespaceResource  = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	definitionResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// Identifier asks a cluster who it is.
type Identifier struct{ client metadata.Interface }

// NewIdentifier makes an Identifier.
func NewIdentifier(config *rest.Config) (*Identifier, error) {
	client, err := metadata.NewForConfig(config)
	return &Identifier{client}, err
}

// Identify asks the API server itself, not a cache. It is safe to repeat; the caller
// does so after an error.
func (i *Identifier) Identify(ctx context.Context) (Identity, error) {
	id := Identity{Definitions: map[string]types.UID{}}
	system, err := i.client.Resource(namespaceResource).Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return id, fmt.Errorf("namespace %s, which tells clusters apart, cannot be read: %w", metav1.NamespaceSystem, err)
	}
	id.System = system.UID
	for _, name := range definitions {
		crd, err := i.client.Resource(definitionResource).Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return id, fmt.Errorf("the cluster does not have the definition %s: install it with `sandboxd crds | kubectl apply --server-side -f -`: %w", name, err)
		case err != nil:
			return id, fmt.Errorf("definition %s cannot be read: %w", name, err)
		case crd.DeletionTimestamp != nil:
			return id, fmt.Errorf("the definition %s is being deleted, and all objects with it", name)
		}
		id.Definitions[name] = crd.UID
	}
	return id, nil
}
