package apiserver

import (
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// The verbs of a resource, as discovery names them.
var (
	readVerbs  = []string{"get", "list", "watch"}
	writeVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
)

// resource is everything the server knows about one served kind. It does not
// change after New.
type resource struct {
	gvr        schema.GroupVersionResource
	gvk        schema.GroupVersionKind
	listKind   string
	singular   string
	shortNames []string
	categories []string
	namespaced bool
	verbs      []string
	status     bool // has a /status subresource that alone writes status

	// scale is set when it has a /scale subresource.
	scale *scale

	// key is the resource's name in store keys.
	key string
	// schema prunes, defaults and validates.
	schema *engine
	// openAPI is the published schema, from the definition.
	openAPI *apiextensionsv1.JSONSchemaProps
	// selectable are the field selectors besides metadata.name and
	// metadata.namespace.
	selectable []selectableField
	columns    []column
	// owners tracks who set which field through the main endpoint, and
	// statusOwners and scaleOwners through /status and /scale.
	owners       *managedfields.FieldManager
	statusOwners *managedfields.FieldManager
	scaleOwners  *managedfields.FieldManager

	strategy
	// view is set when this resource shows the objects of another one in
	// another form; all writing is then done by that one.
	view *view
}

// strategy holds what a core kind does beyond its schema. Its zero value is
// right for every custom resource.
type strategy struct {
	// goType makes an empty typed object, which strategic merge patches need to
	// know the kind's lists. Without it such patches are refused.
	goType func() any
	// prepare sets what the server itself determines. old is nil for a create.
	prepare func(obj, old map[string]any)
	// check validates what a schema cannot say. old is nil for a create. That of a
	// view sees only creations, in the view's form.
	check func(obj, old *unstructured.Unstructured) field.ErrorList
	// checkDelete refuses a deletion.
	checkDelete func(old *unstructured.Unstructured) error
	// holds tells whether an object stays although it has no finalizers, and
	// marked is told when an object begins to be deleted.
	holds  func(u *unstructured.Unstructured) bool
	marked func(obj map[string]any)
	// finalize is what a write to /finalize may make of an object; nil when there
	// is no such subresource.
	finalize func(s *Server, rq *request, u, old *unstructured.Unstructured) (*unstructured.Unstructured, error)
	// checkName validates names; nil means DNS subdomains.
	checkName apivalidation.ValidateNameFunc
	// unconditional allows updates without a resourceVersion.
	unconditional bool
	// ungenerated kinds have no metadata.generation.
	ungenerated bool
	// answer makes the kind a question: objects are answered and not kept.
	answer answer
	// readOnly says what to do in place of writing a kind that cannot be written.
	readOnly string
	// columns of tables; nil means those of the definition.
	tableColumns []column
}

// view shows the objects of another resource in another form.
type view struct {
	of   *resource
	to   func(obj map[string]any) // stored form to this form, in place
	from func(obj map[string]any) // this form to the stored form, in place
}

// base is the resource that stores the objects.
func (r *resource) base() *resource {
	if r.view != nil {
		return r.view.of
	}
	return r
}

func (r *resource) groupResource() schema.GroupResource { return r.gvr.GroupResource() }

func (r *resource) allows(verb string) bool { return slices.Contains(r.verbs, verb) }

// nameCheck is the rule for names of this kind.
func (r *resource) nameCheck() apivalidation.ValidateNameFunc {
	if r.checkName != nil {
		return r.checkName
	}
	return apivalidation.NameIsDNSSubdomain
}

// registry finds resources by the names that requests use.
type registry struct {
	byResource map[schema.GroupVersionResource]*resource
	all        []*resource // ordered by group and name
}

func newRegistry(resources []*resource) (*registry, error) {
	g := &registry{byResource: map[schema.GroupVersionResource]*resource{}, all: resources}
	for _, r := range resources {
		if g.byResource[r.gvr] != nil {
			return nil, fmt.Errorf("%s is defined twice", r.gvr)
		}
		g.byResource[r.gvr] = r
	}
	sort.Slice(g.all, func(i, j int) bool {
		a, b := g.all[i].gvr, g.all[j].gvr
		if a.Group != b.Group {
			return a.Group < b.Group
		}
		return a.Resource < b.Resource
	})
	return g, nil
}

// find returns the resource of a group, whatever its version, or nil. Of a
// view and its base it returns the one of the group asked for.
func (g *registry) find(gr schema.GroupResource) *resource {
	for _, r := range g.all {
		if r.groupResource() == gr {
			return r
		}
	}
	return nil
}

// groupVersions are the served group versions, in order.
func (g *registry) groupVersions() []schema.GroupVersion {
	var gvs []schema.GroupVersion
	for _, r := range g.all {
		if gv := r.gvr.GroupVersion(); !slices.Contains(gvs, gv) {
			gvs = append(gvs, gv)
		}
	}
	return gvs
}

// readDefinitions parses the definitions in a file system, one per file,
// wherever in the tree they lie.
func readDefinitions(files fs.FS) ([]*apiextensionsv1.CustomResourceDefinition, error) {
	var definitions []*apiextensionsv1.CustomResourceDefinition
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		raw, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(raw, crd); err != nil {
			return fmt.Errorf("%s is not a CustomResourceDefinition: %w", path, err)
		}
		definitions = append(definitions, crd)
		return nil
	})
	return definitions, err
}

// newResource compiles a definition.
func newResource(crd *apiextensionsv1.CustomResourceDefinition) (*resource, error) {
	if len(crd.Spec.Versions) != 1 || !crd.Spec.Versions[0].Served || !crd.Spec.Versions[0].Storage {
		return nil, fmt.Errorf("%s must have exactly one version, served and stored", crd.Name)
	}
	version := crd.Spec.Versions[0]
	if version.Schema == nil || version.Schema.OpenAPIV3Schema == nil {
		return nil, fmt.Errorf("%s has no schema", crd.Name)
	}
	gv := schema.GroupVersion{Group: crd.Spec.Group, Version: version.Name}
	r := &resource{
		gvr:        gv.WithResource(crd.Spec.Names.Plural),
		gvk:        gv.WithKind(crd.Spec.Names.Kind),
		listKind:   crd.Spec.Names.ListKind,
		singular:   crd.Spec.Names.Singular,
		shortNames: crd.Spec.Names.ShortNames,
		categories: crd.Spec.Names.Categories,
		namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
		verbs:      writeVerbs,
		status:     version.Subresources != nil && version.Subresources.Status != nil,
		openAPI:    version.Schema.OpenAPIV3Schema,
	}
	if r.listKind == "" {
		r.listKind = r.gvk.Kind + "List"
	}
	if r.singular == "" {
		r.singular = strings.ToLower(r.gvk.Kind)
	}
	r.key = r.groupResource().String()
	var err error
	if r.schema, err = newEngine(r.openAPI); err != nil {
		return nil, fmt.Errorf("%s: %w", crd.Name, err)
	}
	if r.selectable, err = newSelectableFields(version.SelectableFields); err != nil {
		return nil, fmt.Errorf("%s: %w", crd.Name, err)
	}
	if version.Subresources != nil && version.Subresources.Scale != nil {
		if r.scale, err = newScale(version.Subresources.Scale); err != nil {
			return nil, fmt.Errorf("%s: %w", crd.Name, err)
		}
	}
	if r.columns, err = newColumns(version.AdditionalPrinterColumns); err != nil {
		return nil, fmt.Errorf("%s: %w", crd.Name, err)
	}
	return r, nil
}
