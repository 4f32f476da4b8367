package apiserver

import (
	"context"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

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
	status     validation.SchemaValidator // of the status alone; nil without one
	rules      *cel.Validator             // nil when the schema has no rules
	// related: rules of the root relate its members, so that a change of one
	// can break them. Rules about metadata alone cannot be broken by a change:
	// they see no more of it than the name, which stays.
	related bool
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
	e := &engine{
		structural: structural,
		validator:  validator,
		rules:      cel.NewValidator(structural, true, celconfig.PerCallLimit),
		related:    slices.ContainsFunc([]apiextensionsv1.ValidationRule(structural.XValidations), beyondMetadata),
	}
	if status, ok := props.Properties["status"]; ok {
		if e.status, _, err = validation.NewSchemaValidator(&status); err != nil {
			return nil, fmt.Errorf("schema cannot be compiled: %w", err)
		}
	}
	return e, nil
}

// selfPattern finds what a rule looks at.
var selfPattern = regexp.MustCompile(`\b(self|oldSelf)\b(\.metadata\b)?`)

// beyondMetadata tells whether a rule of the root looks at more than metadata.
func beyondMetadata(rule apiextensionsv1.ValidationRule) bool {
	for _, match := range selfPattern.FindAllStringSubmatch(rule.Rule+" "+rule.MessageExpression, -1) {
		if match[2] == "" {
			return true
		}
	}
	return false
}

// coerce brings an object that a client sent into the shape of the schema. It
// drops what the schema does not know, whose paths it returns, and fails when
// the metadata is malformed. known is metadata that was coerced before, or nil.
func (e *engine) coerce(obj, known map[string]any) (unknown []string, err error) {
	if unknown, err = coerceMetadata(obj, known); err != nil {
		return nil, err
	}
	unknown = append(unknown, pruning.PruneWithOptions(obj, e.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
	defaulting.PruneNonNullableNullsWithoutDefaults(obj, e.structural)
	fieldErr, paths := objectmeta.CoerceWithOptions(nil, obj, e.structural, false, objectmeta.CoerceOptions{ReturnUnknownFieldPaths: true})
	if fieldErr != nil {
		return nil, fieldErr
	}
	return append(unknown, paths...), nil
}

// applyDefaults fills in the schema's defaults.
func (e *engine) applyDefaults(obj map[string]any) { defaulting.Default(obj, e.structural) }

// validate checks an object against the schema and its rules. old is nil for a
// create. On an update only what changed can be wrong: a value that an earlier
// schema allowed and that stays as it is does no harm.
func (e *engine) validate(ctx context.Context, obj, old map[string]any) field.ErrorList {
	if old == nil {
		return e.check(ctx, obj, nil, nil)
	}
	changed := changedParts(obj, old)
	if len(changed) == 0 {
		return nil // metadata is not the schema's
	}
	// Nearly always all is well. Only else is it worth to find out what was
	// wrong before.
	if len(e.check(ctx, obj, old, changed)) == 0 {
		return nil
	}
	return e.checkRatcheting(ctx, obj, old)
}

// check validates the changed parts of an object; all of them when old is nil.
func (e *engine) check(ctx context.Context, obj, old map[string]any, changed []string) field.ErrorList {
	var errs field.ErrorList
	if e.status != nil && len(changed) == 1 && changed[0] == "status" {
		if status, ok := obj["status"]; ok {
			errs = validation.ValidateCustomResource(field.NewPath("status"), status, e.status)
		}
	} else {
		errs = validation.ValidateCustomResource(nil, obj, e.validator)
		errs = append(errs, objectmeta.Validate(ctx, nil, obj, e.structural, false)...)
	}
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, e.structural, obj)...)
	errs = append(errs, implausible(nil, obj, e.structural)...)
	if old == nil || e.related {
		return append(errs, e.checkRules(ctx, obj, old, errs)...)
	}
	return append(errs, e.checkPartRules(ctx, obj, old, changed, errs)...)
}

// checkRatcheting validates an update and accepts what was wrong before and did
// not change.
func (e *engine) checkRatcheting(ctx context.Context, obj, old map[string]any) field.ErrorList {
	correlated := common.NewCorrelatedObject(obj, old, &model.Structural{Structural: e.structural})
	errs := validation.ValidateCustomResourceUpdate(nil, obj, old, e.validator, validation.WithRatcheting(correlated))
	errs = append(errs, objectmeta.Validate(ctx, nil, obj, e.structural, false)...)
	if len(listtype.ValidateListSetsAndMaps(nil, e.structural, old)) == 0 {
		errs = append(errs, listtype.ValidateListSetsAndMaps(nil, e.structural, obj)...)
	}
	errs = append(errs, implausible(nil, obj, e.structural)...)
	return append(errs, e.checkRules(ctx, obj, old, errs, cel.WithRatcheting(correlated))...)
}

// checkRules evaluates the rules, unless there are errors already: rules assume
// values of the right form.
func (e *engine) checkRules(ctx context.Context, obj, old map[string]any, found field.ErrorList, o ...cel.Option) field.ErrorList {
	if e.rules == nil || len(found) > 0 {
		return nil
	}
	var before any
	if old != nil {
		before = old
	}
	errs, _ := e.rules.Validate(ctx, nil, e.structural, obj, before, celconfig.RuntimeCELCostBudget, o...)
	return errs
}

// checkPartRules is checkRules for members that do not depend on each other.
func (e *engine) checkPartRules(ctx context.Context, obj, old map[string]any, changed []string, found field.ErrorList) field.ErrorList {
	if e.rules == nil || len(found) > 0 {
		return nil
	}
	var errs field.ErrorList
	budget := int64(celconfig.RuntimeCELCostBudget)
	for _, name := range changed {
		rules, ok := e.rules.Properties[name]
		if v, present := obj[name]; ok && present {
			var more field.ErrorList
			more, budget = rules.Validate(ctx, field.NewPath(name), nil, v, old[name], budget)
			errs = append(errs, more...)
		}
	}
	return errs
}

// changedParts names the members, but for the metadata, that differ.
func changedParts(obj, old map[string]any) []string {
	var changed []string
	for k, v := range obj {
		if before, ok := old[k]; k != "metadata" && (!ok || !reflect.DeepEqual(v, before)) {
			changed = append(changed, k)
		}
	}
	for k := range old {
		if _, ok := obj[k]; !ok && k != "metadata" {
			changed = append(changed, k)
		}
	}
	return changed
}

// quantityPattern is what the schemas of quantities have in common.
const quantityPattern = `(([KMGTPE]i)|[numkMGTPE]|`

// readable rewords errors that would show people how they were found.
func readable(errs field.ErrorList, root string) field.ErrorList {
	for _, err := range errs {
		if err.Field == "<nil>" || err.Field == "" {
			err.Field = root
		}
		if err.Type == field.ErrorTypeInvalid && strings.Contains(err.Detail, quantityPattern) {
			err.Detail = "must be a quantity, such as 512Mi or 10G"
		}
	}
	return errs
}
