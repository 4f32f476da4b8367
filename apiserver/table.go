package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"
)

// column is one column of a table.
type column struct {
	metav1.TableColumnDefinition
	// cell renders an object's cell; nil when there is nothing to show.
	cell func(obj map[string]any, now time.Time) any
}

// newColumns compiles the printer columns of a definition, behind the name.
func newColumns(defined []apiextensionsv1.CustomResourceColumnDefinition) ([]column, error) {
	columns := []column{nameColumn()}
	for _, d := range defined {
		path := jsonpath.New(d.Name).AllowMissingKeys(true)
		if err := path.Parse("{" + d.JSONPath + "}"); err != nil {
			return nil, fmt.Errorf("printer column %s has a bad path: %w", d.Name, err)
		}
		columns = append(columns, column{
			TableColumnDefinition: metav1.TableColumnDefinition{
				Name: d.Name, Type: d.Type, Format: d.Format, Description: d.Description, Priority: d.Priority,
			},
			cell: pathCell(path, d.Type),
		})
	}
	if len(defined) == 0 {
		columns = append(columns, ageColumn())
	}
	return columns, nil
}

func nameColumn() column {
	return column{
		TableColumnDefinition: metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: "The object's name."},
		cell: func(obj map[string]any, _ time.Time) any {
			name, _, _ := unstructured.NestedString(obj, "metadata", "name")
			return name
		},
	}
}

func ageColumn() column {
	return column{
		TableColumnDefinition: metav1.TableColumnDefinition{Name: "Age", Type: "date", Description: "The time since the object was created."},
		cell: func(obj map[string]any, now time.Time) any {
			created, _, _ := unstructured.NestedString(obj, "metadata", "creationTimestamp")
			return age(created, now)
		},
	}
}

// age renders the time since a timestamp as people read it.
func age(timestamp string, now time.Time) any {
	if timestamp == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, timestamp)
	if err != nil {
		return "<invalid>"
	}
	return duration.HumanDuration(now.Sub(t))
}

// pathCell renders what a JSONPath finds, in the column's type. Compiled paths
// keep state while they run, so each cell runs a copy.
func pathCell(path *jsonpath.JSONPath, kind string) func(map[string]any, time.Time) any {
	return func(obj map[string]any, now time.Time) any {
		p := *path
		results, err := p.FindResults(obj)
		if err != nil || len(results) == 0 || len(results[0]) == 0 {
			return nil
		}
		value := results[0][0].Interface()
		if value == nil {
			return nil
		}
		switch kind {
		case "string":
			var text bytes.Buffer
			if p.PrintResults(&text, []reflect.Value{reflect.ValueOf(value)}) != nil {
				return nil
			}
			return text.String()
		case "date":
			timestamp, _ := value.(string)
			return age(timestamp, now)
		default:
			return value
		}
	}
}

// shownColumns are the columns of a table of the resource.
func (r *resource) shownColumns() []column {
	if r.tableColumns != nil {
		return r.tableColumns
	}
	return r.columns
}

// tableFor renders objects as a Table. Each row carries as much of its object
// as include says: None, Metadata (the default) or Object.
func tableFor(r *resource, objects []*unstructured.Unstructured, include string, headers bool, now time.Time) (*metav1.Table, error) {
	columns := r.shownColumns()
	table := &metav1.Table{
		TypeMeta:          metav1.TypeMeta{APIVersion: metav1.SchemeGroupVersion.String(), Kind: "Table"},
		ColumnDefinitions: []metav1.TableColumnDefinition{},
		Rows:              make([]metav1.TableRow, 0, len(objects)),
	}
	if headers {
		for _, c := range columns {
			table.ColumnDefinitions = append(table.ColumnDefinitions, c.TableColumnDefinition)
		}
	}
	for _, u := range objects {
		row := metav1.TableRow{Cells: make([]any, 0, len(columns))}
		for _, c := range columns {
			row.Cells = append(row.Cells, c.cell(u.Object, now))
		}
		raw, err := rowObject(u, include)
		if err != nil {
			return nil, err
		}
		row.Object = runtime.RawExtension{Raw: raw}
		table.Rows = append(table.Rows, row)
	}
	return table, nil
}

// checkTableOptions refuses an unknown value of includeObject.
func checkTableOptions(rq *request) error {
	if rq.accept.form != formTable {
		return nil
	}
	o := &metav1.TableOptions{IncludeObject: metav1.IncludeObjectPolicy(rq.query.Get("includeObject"))}
	if errs := validation.ValidateTableOptions(o); len(errs) > 0 {
		return apierrors.NewBadRequest(errs.ToAggregate().Error())
	}
	return nil
}

// rowObject is the part of an object that a row carries.
func rowObject(u *unstructured.Unstructured, include string) ([]byte, error) {
	switch include {
	case "None":
		return nil, nil
	case "Object":
		return json.Marshal(u.Object)
	default:
		return json.Marshal(partialMetadata(u))
	}
}

// partialMetadata is an object reduced to its metadata.
func partialMetadata(u *unstructured.Unstructured) map[string]any {
	return map[string]any{
		"apiVersion": metav1.SchemeGroupVersion.String(),
		"kind":       "PartialObjectMetadata",
		"metadata":   u.Object["metadata"],
	}
}
