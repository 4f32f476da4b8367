package apiserver

import (
	"context"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
)

// engine does with an object what its schema says: it prunes, fills in
// defaults and validates. It is compiled once and may be used concurrently.
type engine struct {
	structural *schema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator // nil when the schema has no rules
}

// newEngine compiles a schema. A rule that does not compile is reported by
// every validation that would have used it.
func newEngine(v1 *apiextensionsv1.JSONSchemaProps) (*engine, error) {
	props := &apiextensions.JSONSchemaProps{}
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v1, props, nil); err != nil {
		return nil, fmt.Errorf("schema cannot be converted: %w", err)
	}
	structural, err := schema.NewStructural(props)
	if err != nil {
		return nil, fmt.Errorf("schema is not structural: %w", err)
	}
	if errs := schema.ValidateStructural(nil, structural); len(errs) > 0 {
		return nil, fmt.Errorf("schema is not structural: %w", errs.ToAggregate())
	}
	structural = structural.DeepCopy()
	if err := defaulting.PruneDefaults(structural); err != nil {
		return nil, fmt.Errorf("schema has defaults that cannot be pruned: %w", err)
	}
	validator, _, err := validation.NewSchemaValidator(props)
	if err != nil {
		return nil, fmt.Errorf("schema cannot be compiled: %w", err)
	}
	return &engine{
		structural: structural,
		validator:  validator,
		rules:      cel.NewValidator(structural, true, celconfig.PerCallLimit),
	}, nil
}

// coerce brings an object that a client sent into the shape of the schema. It
// drops what the schema does not know, whose paths it returns, and fails when
// the metadata is malformed.
func (e *engine) coerce(obj map[string]any) (unknown []string, err error) {
	meta, found, unknown, err := objectmeta.GetObjectMetaWithOptions(obj, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return nil, fmt.Errorf("metadata is malformed: %w", err)
	}
	unknown = append(unknown, pruning.PruneWithOptions(obj, e.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
	defaulting.PruneNonNullableNullsWithoutDefaults(obj, e.structural)
	if fieldErr, paths := objectmeta.CoerceWithOptions(nil, obj, e.structural, false, objectmeta.CoerceOptions{ReturnUnknownFieldPaths: true}); fieldErr != nil {
		return nil, fieldErr
	} else {
		unknown = append(unknown, paths...)
	}
	if !found {
		obj["metadata"] = map[string]any{}
		return unknown, nil
	}
	if err := objectmeta.SetObjectMeta(obj, meta); err != nil {
		return nil, fmt.Errorf("metadata is malformed: %w", err)
	}
	// A missing timestamp is rendered as null.
	if m, ok := obj["metadata"].(map[string]any); ok && m["creationTimestamp"] == nil {
		delete(m, "creationTimestamp")
	}
	return unknown, nil
}

// applyDefaults fills in the schema's defaults.
func (e *engine) applyDefaults(obj map[string]any) { defaulting.Default(obj, e.structural) }

// validate checks an object against the schema and its rules. old is nil for a
// create; on an update what was already wrong and did not change is accepted.
func (e *engine) validate(ctx context.Context, obj, old map[string]any) field.ErrorList {
	var errs field.ErrorList
	var ruleOptions []cel.Option
	if old == nil {
		errs = validation.ValidateCustomResource(nil, obj, e.validator)
	} else {
		correlated := common.NewCorrelatedObject(obj, old, &model.Structural{Structural: e.structural})
		errs = validation.ValidateCustomResourceUpdate(nil, obj, old, e.validator, validation.WithRatcheting(correlated))
		ruleOptions = append(ruleOptions, cel.WithRatcheting(correlated))
	}
	errs = append(errs, objectmeta.Validate(ctx, nil, obj, e.structural, false)...)
	if old == nil || len(listtype.ValidateListSetsAndMaps(nil, e.structural, old)) == 0 {
		errs = append(errs, listtype.ValidateListSetsAndMaps(nil, e.structural, obj)...)
	}
	// Rules may assume values of the right type and size.
	if e.rules == nil || blocksRules(errs) {
		return errs
	}
	var before any
	if old != nil {
		before = old
	}
	ruleErrs, _ := e.rules.Validate(ctx, nil, e.structural, obj, before, celconfig.RuntimeCELCostBudget, ruleOptions...)
	return append(errs, ruleErrs...)
}

// blocksRules tells whether errors make the evaluation of rules pointless.
func blocksRules(errs field.ErrorList) bool {
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong,
			field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		}
	}
	return false
}
