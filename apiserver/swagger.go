package apiserver

import (
	"bytes"
	"encoding/json"
	"sort"

	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// swaggerRefs begins references in documents of version 2.
const swaggerRefs = "#/definitions/"

// swaggerFor renders the document of version 2, which kubectl before 1.24 reads.
// It says the same as those of version 3, less what version 2 has no words for.
func swaggerFor(resources []*resource, version string) ([]byte, error) {
	definitions := spec.Definitions{}
	for name, model := range metaModels() {
		withoutRefDefaults(model)
		definitions[name] = *model
	}
	paths := map[string]*spec3.Path{}
	for _, r := range resources {
		definitions[modelName(r.gvk)] = *r.modelOf(openapiv2.ToStructuralOpenAPIV2(r.schema.structural))
		definitions[modelName(r.gvk.GroupVersion().WithKind(r.listKind))] = *r.listModel()
		addPaths(paths, r)
	}
	swagger := spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger:     "2.0",
		Info:        &spec.Info{InfoProps: spec.InfoProps{Title: "sandboxd", Version: version}},
		Paths:       &spec.Paths{Paths: map[string]spec.PathItem{}},
		Definitions: definitions,
	}}
	for path, p := range paths {
		swagger.Paths.Paths[path] = spec.PathItem{PathItemProps: spec.PathItemProps{
			Get: swaggerOperation(p.Get), Post: swaggerOperation(p.Post), Put: swaggerOperation(p.Put),
			Patch: swaggerOperation(p.Patch), Delete: swaggerOperation(p.Delete),
			Parameters: swaggerParameters(p.Parameters),
		}}
	}
	raw, err := json.Marshal(swagger)
	return bytes.ReplaceAll(raw, []byte(`"`+schemaRefs), []byte(`"`+swaggerRefs)), err
}

// withoutRefDefaults removes defaults beside references, which version 2 does
// not allow.
func withoutRefDefaults(s *spec.Schema) {
	if s.Ref.String() != "" {
		s.Default = nil
	}
	for name, property := range s.Properties {
		withoutRefDefaults(&property)
		s.Properties[name] = property
	}
	if s.Items != nil && s.Items.Schema != nil {
		withoutRefDefaults(s.Items.Schema)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		withoutRefDefaults(s.AdditionalProperties.Schema)
	}
}

// swaggerOperation says of an operation what version 2 can.
func swaggerOperation(o *spec3.Operation) *spec.Operation {
	if o == nil {
		return nil
	}
	op := &spec.Operation{
		VendorExtensible: spec.VendorExtensible{Extensions: o.Extensions},
		OperationProps: spec.OperationProps{
			ID: o.OperationId, Produces: []string{mediaJSON, mediaYAML}, Parameters: swaggerParameters(o.Parameters),
			Responses: &spec.Responses{ResponsesProps: spec.ResponsesProps{StatusCodeResponses: map[int]spec.Response{}}},
		},
	}
	if o.RequestBody != nil {
		op.Consumes = sortedMedia(o.RequestBody.Content)
		op.Parameters = append(op.Parameters, spec.Parameter{ParamProps: spec.ParamProps{
			Name: "body", In: "body", Schema: o.RequestBody.Content[op.Consumes[0]].Schema,
		}})
	}
	for code, response := range o.Responses.StatusCodeResponses {
		answer := spec.Response{ResponseProps: spec.ResponseProps{Description: response.Description}}
		if media := sortedMedia(response.Content); len(media) > 0 {
			answer.Schema = response.Content[media[0]].Schema
		}
		op.Responses.StatusCodeResponses[code] = answer
	}
	return op
}

func swaggerParameters(parameters []*spec3.Parameter) []spec.Parameter {
	var all []spec.Parameter
	for _, p := range parameters {
		all = append(all, spec.Parameter{
			ParamProps:   spec.ParamProps{Name: p.Name, In: p.In, Required: p.Required},
			SimpleSchema: spec.SimpleSchema{Type: p.Schema.Type[0]},
		})
	}
	return all
}

func sortedMedia(content map[string]*spec3.MediaType) []string {
	media := make([]string, 0, len(content))
	for name := range content {
		media = append(media, name)
	}
	sort.Strings(media)
	return media
}
