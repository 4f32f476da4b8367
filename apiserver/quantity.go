package apiserver

import (
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// maxQuantity is the longest text of a quantity, and maxExponent the most digits
	// of its exponent. To compare 1e999999999 with anything, the libraries write all
	// of its digits down first: nobody may ask them to.
	maxQuantity = 64
	maxExponent = 2
)

// implausible finds quantities that nobody can mean, before a rule computes with
// them.
func implausible(path *field.Path, value any, s *schema.Structural) (errs field.ErrorList) {
	if s == nil {
		return nil
	}
	switch value := value.(type) {
	case string:
		if s.XIntOrString && !plausible(value) {
			errs = append(errs, field.Invalid(path, printable(value), "must be a quantity, such as 512Mi or 10G"))
		}
	case []any:
		for i, item := range value {
			errs = append(errs, implausible(path.Index(i), item, s.Items)...)
		}
	case map[string]any:
		for name, member := range value {
			if property, ok := s.Properties[name]; ok {
				errs = append(errs, implausible(path.Child(name), member, &property)...)
			} else if s.AdditionalProperties != nil {
				errs = append(errs, implausible(path.Key(name), member, s.AdditionalProperties.Structural)...)
			}
		}
	}
	return errs
}

func plausible(quantity string) bool {
	if len(quantity) > maxQuantity {
		return false
	}
	at := strings.LastIndexAny(quantity, "eE")
	if at <= 0 || strings.Trim(quantity[:at], "+-.0123456789") != "" {
		return true // it has no exponent
	}
	exponent := strings.TrimLeft(quantity[at+1:], "+-0")
	return strings.Trim(exponent, ".0123456789") != "" || len(exponent) <= maxExponent
}
