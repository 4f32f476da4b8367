package apiserver

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// builtinFiles define the core kinds in the form of CustomResourceDefinitions.
// Those of the core group have an empty group.
//
//go:embed builtin/*.yaml
var builtinFiles embed.FS

// The store keys of the kinds that the server itself looks after.
const (
	namespacesKey  = "namespaces"
	eventsKey      = "events"
	eventsViewKey  = "events.events.k8s.io"
	secretsKey     = "secrets"
	configMapsKey  = "configmaps"
	podsKey        = "pods"
	servicesKey    = "services"
	sandboxesKey   = "sandboxes.sandboxd.dev"
	leasesKey      = "leases.coordination.k8s.io"
	definitionsKey = "customresourcedefinitions.apiextensions.k8s.io"
)

// strategies are what the core kinds do beyond their schemas.
func strategies() map[string]strategy {
	return map[string]strategy{
		namespacesKey: {
			goType:        func() any { return &corev1.Namespace{} },
			prepare:       prepareNamespace,
			checkDelete:   checkNamespaceDelete,
			holds:         namespaceHolds,
			marked:        namespaceMarked,
			finalize:      finalizeNamespace,
			checkName:     apivalidation.NameIsDNSLabel,
			unconditional: true,
			ungenerated:   true,
		},
		eventsKey: {
			goType:        func() any { return &corev1.Event{} },
			prepare:       prepareEvent,
			check:         checkEvent,
			unconditional: true,
			ungenerated:   true,
			tableColumns:  eventColumns("involvedObject", "message", "firstTimestamp", "lastTimestamp", "count"),
		},
		eventsViewKey: {
			goType:       func() any { return &eventsv1.Event{} },
			check:        checkEventView,
			tableColumns: eventColumns("regarding", "note", "deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount"),
		},
		secretsKey: {
			goType:        func() any { return &corev1.Secret{} },
			prepare:       prepareSecret,
			check:         checkSecret,
			unconditional: true,
			ungenerated:   true,
			tableColumns:  secretColumns(),
		},
		configMapsKey: {
			goType:        func() any { return &corev1.ConfigMap{} },
			check:         checkConfigMap,
			unconditional: true,
			ungenerated:   true,
			tableColumns:  configMapColumns(),
		},
		podsKey: {
			goType:       func() any { return &corev1.Pod{} },
			readOnly:     podReadOnly,
			tableColumns: podColumns(),
		},
		servicesKey: {
			goType:   func() any { return &corev1.Service{} },
			readOnly: "there are no services here: a sandbox is reached through spec.network.portForwards, or by kubectl port-forward to the Pod of its name",
		},
		leasesKey: {
			goType:      func() any { return &coordinationv1.Lease{} },
			ungenerated: true,
		},
	}
}

// loadResources compiles the core kinds and the definitions in crds. It returns
// the definitions of the latter too.
func loadResources(crds fs.FS) ([]*resource, []*apiextensionsv1.CustomResourceDefinition, error) {
	builtins, err := readDefinitions(builtinFiles)
	if err != nil {
		return nil, nil, err
	}
	definitions, err := readDefinitions(crds)
	if err != nil {
		return nil, nil, err
	}
	var resources []*resource
	byKey := map[string]*resource{}
	core := allStrategies()
	for i, crd := range append(builtins, definitions...) {
		r, err := newResource(crd)
		if err != nil {
			return nil, nil, err
		}
		if byKey[r.key] != nil {
			return nil, nil, fmt.Errorf("%s is defined twice", crd.Name)
		}
		if i < len(builtins) {
			r.strategy = core[r.key]
			if r.answer != nil {
				r.verbs = reviewVerbs
			}
		}
		byKey[r.key] = r
		resources = append(resources, r)
	}
	byKey[definitionsKey].verbs = readVerbs
	byKey[servicesKey].verbs = readVerbs
	byKey[eventsViewKey].view = eventView(byKey[eventsKey])
	if sandboxes, pods := byKey[sandboxesKey], byKey[podsKey]; sandboxes != nil {
		pods.verbs, pods.view = readVerbs, podView(sandboxes)
	} else { // there is nothing that they could show
		resources = slices.DeleteFunc(resources, func(r *resource) bool { return r == pods })
	}
	return resources, definitions, nil
}
