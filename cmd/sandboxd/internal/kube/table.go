package kube

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
)

// acceptTable asks for tables, rendered by the server.
const acceptTable = "application/json;as=Table;v=v1;g=meta.k8s.io"

// Query selects objects.
type Query struct {
	Namespace     string // empty means all
	Name          string // empty means all
	LabelSelector string
	FieldSelector string
}

// Table returns objects as the server prints them. Each row carries its object.
func (a *API) Table(ctx context.Context, r Resource, q Query) (*metav1.Table, error) {
	request := a.rest.Get().AbsPath(r.path(q.Namespace, q.Name)...).
		SetHeader("Accept", acceptTable).Param("includeObject", string(metav1.IncludeObject))
	if q.LabelSelector != "" {
		request.Param("labelSelector", q.LabelSelector)
	}
	if q.FieldSelector != "" {
		request.Param("fieldSelector", q.FieldSelector)
	}
	raw, err := request.Do(ctx).Raw()
	if err != nil {
		return nil, rawError(raw, err)
	}
	table := &metav1.Table{}
	if err := json.Unmarshal(raw, table); err != nil {
		return nil, err
	}
	return table, decodeRows(table)
}

// rawError prefers the Status in an answer to what the client made of it.
func rawError(raw []byte, err error) error {
	var s metav1.Status
	if json.Unmarshal(raw, &s) == nil && s.Kind == "Status" && s.Message != "" {
		return &apierrors.StatusError{ErrStatus: s}
	}
	return err
}

// decodeRows decodes the objects of a table's rows.
func decodeRows(t *metav1.Table) error {
	for i := range t.Rows {
		u := &unstructured.Unstructured{}
		if len(t.Rows[i].Object.Raw) == 0 {
			continue
		}
		if err := u.UnmarshalJSON(t.Rows[i].Object.Raw); err != nil {
			return err
		}
		t.Rows[i].Object.Object = u
	}
	return nil
}

// WatchTable hands every object that changes after a resource version to a
// function, as the server prints it, until that or the server ends the watch,
// which is io.EOF.
func (a *API) WatchTable(ctx context.Context, r Resource, q Query, after string, handle func(*metav1.Table) error) error {
	if q.Name != "" {
		q.FieldSelector, q.Name = "metadata.name="+q.Name, ""
	}
	request := a.rest.Get().AbsPath(r.path(q.Namespace, "")...).SetHeader("Accept", acceptTable).
		Param("watch", "true").Param("includeObject", string(metav1.IncludeObject)).Param("resourceVersion", after)
	if q.LabelSelector != "" {
		request.Param("labelSelector", q.LabelSelector)
	}
	if q.FieldSelector != "" {
		request.Param("fieldSelector", q.FieldSelector)
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	return decodeEvents(ctx, body, handle)
}

func decodeEvents(ctx context.Context, r io.Reader, handle func(*metav1.Table) error) error {
	decoder := json.NewDecoder(r)
	for {
		var e metav1.WatchEvent
		if err := decoder.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = io.EOF // cut off between or inside events: watch again
			}
			return err
		}
		switch watch.EventType(e.Type) {
		case watch.Bookmark:
			continue
		case watch.Error:
			return apierrors.FromObject(statusOf(e.Object.Raw))
		}
		table := &metav1.Table{}
		if err := json.Unmarshal(e.Object.Raw, table); err != nil {
			return err
		}
		if err := decodeRows(table); err != nil {
			return err
		}
		if err := handle(table); err != nil {
			return err
		}
	}
}

func statusOf(raw []byte) *metav1.Status {
	s := &metav1.Status{}
	if err := json.Unmarshal(raw, s); err != nil {
		return &metav1.Status{Status: metav1.StatusFailure, Message: "the watch failed for a reason that could not be read"}
	}
	return s
}
