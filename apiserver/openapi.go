package apiserver

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	generated "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	schemaRefs     = "#/components/schemas/"
	gvkExtension   = "x-kubernetes-group-version-kind"
	verbExtension  = "x-kubernetes-action"
	openAPIVersion = "3.0.0"
)

// metaModels are the published schemas that every kind refers to.
func metaModels() map[string]*spec.Schema {
	definitions := generated.GetOpenAPIDefinitions(func(name string) spec.Ref { return spec.MustCreateRef(schemaRefs + name) })
	models := map[string]*spec.Schema{}
	var add func(definition common.OpenAPIDefinition, name string)
	add = func(definition common.OpenAPIDefinition, name string) {
		if models[name] != nil {
			return
		}
		models[name] = &definition.Schema
		for _, dependency := range definition.Dependencies {
			add(definitions[dependency], dependency)
		}
	}
	for _, name := range []string{
		metav1.ObjectMeta{}.OpenAPIModelName(), metav1.ListMeta{}.OpenAPIModelName(),
		metav1.Status{}.OpenAPIModelName(), metav1.DeleteOptions{}.OpenAPIModelName(),
	} {
		add(definitions[name], name)
	}
	return models
}

// modelName is the name of a kind's published schema: its group backwards, its
// version and the kind.
func modelName(gvk schema.GroupVersionKind) string {
	parts := strings.Split(gvk.Group, ".")
	slices.Reverse(parts)
	if gvk.Group == "" {
		parts = []string{"core"}
	}
	return strings.Join(append(parts, gvk.Version, gvk.Kind), ".")
}

// model is the published schema of a kind.
func (r *resource) model() *spec.Schema { return r.modelOf(r.schema.structural) }

// modelOf is the published schema of a kind, given its structure.
func (r *resource) modelOf(structure *structural.Structural) *spec.Schema {
	m := structure.ToKubeOpenAPI()
	metadata := spec.Schema{SchemaProps: spec.SchemaProps{
		Description: "metadata of the object.",
		Ref:         spec.MustCreateRef(schemaRefs + metav1.ObjectMeta{}.OpenAPIModelName()),
	}}
	if m.Properties == nil {
		m.Properties = map[string]spec.Schema{}
	}
	for _, name := range []string{"apiVersion", "kind"} { // definitions may leave them out
		if _, ok := m.Properties[name]; !ok {
			m.Properties[name] = *spec.StringProperty()
		}
	}
	m.Properties["metadata"] = metadata
	m.AddExtension(gvkExtension, []any{gvkMap(r.gvk)})
	return m
}

// listModel is the published schema of a kind's list.
func (r *resource) listModel() *spec.Schema {
	item := spec.RefSchema(schemaRefs + modelName(r.gvk))
	m := &spec.Schema{SchemaProps: spec.SchemaProps{
		Description: r.listKind + " is a list of " + r.gvk.Kind + ".",
		Type:        []string{"object"},
		Required:    []string{"items"},
		Properties: map[string]spec.Schema{
			"apiVersion": *spec.StringProperty(),
			"kind":       *spec.StringProperty(),
			"metadata":   *spec.RefSchema(schemaRefs + metav1.ListMeta{}.OpenAPIModelName()),
			"items":      *spec.ArrayProperty(item),
		},
	}}
	m.AddExtension(gvkExtension, []any{gvkMap(r.gvk.GroupVersion().WithKind(r.listKind))})
	return m
}

func gvkMap(gvk schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

// kindModels are the published schemas of resources, with those they refer to.
func kindModels(resources []*resource) map[string]*spec.Schema {
	models := metaModels()
	for _, r := range resources {
		models[modelName(r.gvk)] = r.model()
	}
	return models
}

// openAPI holds the published documents: of version 3 one for each group version
// and an index of them, and of version 2 one for everything.
type openAPI struct {
	index document
	docs  map[string]document // by path behind /openapi/v3/
	v2    document
}

// newOpenAPI renders the documents. They are wanted seldom, so the server only
// does it when somebody asks.
func newOpenAPI(g *registry, version string) (*openAPI, error) {
	o := &openAPI{docs: map[string]document{}}
	index := map[string]any{}
	for _, gv := range g.groupVersions() {
		var resources []*resource
		for _, r := range g.all {
			if r.gvr.GroupVersion() == gv {
				resources = append(resources, r)
			}
		}
		raw, err := json.Marshal(openAPIFor(resources, version))
		if err != nil {
			return nil, err
		}
		doc, err := newDocument(raw)
		if err != nil {
			return nil, err
		}
		path := strings.TrimPrefix(rootPath(gv), "/")
		o.docs[path] = doc
		index[path] = map[string]string{"serverRelativeURL": doc.address(path)}
	}
	raw, err := json.Marshal(map[string]any{"paths": index})
	if err != nil {
		return nil, err
	}
	if o.index, err = newDocument(raw); err != nil {
		return nil, err
	}
	if raw, err = swaggerFor(g.all, version); err != nil {
		return nil, err
	}
	o.v2, err = newDocument(raw)
	return o, err
}

// rootPath is the path that a group version is served under.
func rootPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.Group + "/" + gv.Version
}

func openAPIFor(resources []*resource, version string) *spec3.OpenAPI {
	models := kindModels(resources)
	paths := map[string]*spec3.Path{}
	for _, r := range resources {
		models[modelName(r.gvk.GroupVersion().WithKind(r.listKind))] = r.listModel()
		addPaths(paths, r)
	}
	return &spec3.OpenAPI{
		Version:    openAPIVersion,
		Info:       &spec.Info{InfoProps: spec.InfoProps{Title: "sandboxd", Version: version}},
		Paths:      &spec3.Paths{Paths: paths},
		Components: &spec3.Components{Schemas: models},
	}
}

// addPaths describes what can be done with a resource, and where.
func addPaths(paths map[string]*spec3.Path, r *resource) {
	root := rootPath(r.gvr.GroupVersion())
	collection := root + "/" + r.gvr.Resource
	if r.answer != nil {
		addReviewPath(paths, r)
		return
	}
	var parameters []*spec3.Parameter
	if r.namespaced {
		paths[collection] = &spec3.Path{PathProps: spec3.PathProps{Get: operation(r, "list", r.listKind)}}
		collection = root + "/namespaces/{namespace}/" + r.gvr.Resource
		parameters = append(parameters, pathParameter("namespace"))
	}
	object := collection + "/{name}"
	all := &spec3.Path{PathProps: spec3.PathProps{Parameters: parameters, Get: operation(r, "list", r.listKind)}}
	one := &spec3.Path{PathProps: spec3.PathProps{
		Parameters: append(slices.Clone(parameters), pathParameter("name")),
		Get:        operation(r, "get", r.gvk.Kind),
	}}
	if r.allows("create") {
		all.Post = operation(r, "post", r.gvk.Kind)
		all.Delete = operation(r, "deletecollection", "")
		one.Put = operation(r, "put", r.gvk.Kind)
		one.Patch = operation(r, "patch", r.gvk.Kind)
		one.Delete = operation(r, "delete", "")
	}
	paths[collection], paths[object] = all, one
	if r.status {
		paths[object+"/status"] = &spec3.Path{PathProps: spec3.PathProps{
			Parameters: one.Parameters,
			Get:        operation(r, "get", r.gvk.Kind),
			Put:        operation(r, "put", r.gvk.Kind),
			Patch:      operation(r, "patch", r.gvk.Kind),
		}}
	}
}

// addReviewPath describes a question: it is posted.
func addReviewPath(paths map[string]*spec3.Path, r *resource) {
	root, parameters := rootPath(r.gvr.GroupVersion()), []*spec3.Parameter(nil)
	if r.namespaced {
		root, parameters = root+"/namespaces/{namespace}", append(parameters, pathParameter("namespace"))
	}
	paths[root+"/"+r.gvr.Resource] = &spec3.Path{PathProps: spec3.PathProps{Parameters: parameters, Post: operation(r, "post", r.gvk.Kind)}}
}

// operation describes one verb. answer is the kind of the answer; empty means
// a Status.
func operation(r *resource, verb, answer string) *spec3.Operation {
	model := metav1.Status{}.OpenAPIModelName()
	if answer != "" {
		model = modelName(r.gvk.GroupVersion().WithKind(answer))
	}
	op := &spec3.Operation{OperationProps: spec3.OperationProps{
		OperationId: verb + r.gvk.Kind,
		Responses: &spec3.Responses{ResponsesProps: spec3.ResponsesProps{StatusCodeResponses: map[int]*spec3.Response{
			http.StatusOK: {ResponseProps: spec3.ResponseProps{Description: "OK", Content: content(model, mediaJSON, mediaYAML)}},
		}}},
	}}
	op.Extensions = spec.Extensions{gvkExtension: gvkMap(r.gvk), verbExtension: verb}
	var query []string
	switch verb {
	case "list", "deletecollection":
		query = []string{"labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "resourceVersionMatch"}
	case "get":
		query = []string{"resourceVersion"}
	case "post", "put":
		query = []string{"dryRun", "fieldManager", "fieldValidation"}
		op.RequestBody = body(modelName(r.gvk), mediaJSON, mediaYAML)
	case "patch":
		query = []string{"dryRun", "fieldManager", "fieldValidation", "force"}
		media := []string{mediaJSONPatch, mediaMergePatch, mediaApply}
		if r.goType != nil {
			media = append(media, mediaStrategicPatch)
		}
		op.RequestBody = body("", media...)
	case "delete":
		query = []string{"dryRun", "propagationPolicy"}
		op.RequestBody = body(metav1.DeleteOptions{}.OpenAPIModelName(), mediaJSON, mediaYAML)
	}
	for _, name := range query {
		op.Parameters = append(op.Parameters, &spec3.Parameter{ParameterProps: spec3.ParameterProps{
			Name: name, In: "query", Schema: spec.StringProperty(),
		}})
	}
	return op
}

func pathParameter(name string) *spec3.Parameter {
	return &spec3.Parameter{ParameterProps: spec3.ParameterProps{Name: name, In: "path", Required: true, Schema: spec.StringProperty()}}
}

func body(model string, media ...string) *spec3.RequestBody {
	return &spec3.RequestBody{RequestBodyProps: spec3.RequestBodyProps{Content: content(model, media...)}}
}

// content describes a body; without a model it is any object.
func content(model string, media ...string) map[string]*spec3.MediaType {
	m := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	if model != "" {
		m = spec.RefSchema(schemaRefs + model)
	}
	types := map[string]*spec3.MediaType{}
	for _, name := range media {
		types[name] = &spec3.MediaType{MediaTypeProps: spec3.MediaTypeProps{Schema: m}}
	}
	return types
}
