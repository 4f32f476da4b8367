package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"

	"sandboxd.dev/sandboxd/store"
)

// The store keys of the RBAC kinds.
const (
	rolesKey               = "roles." + rbacv1.GroupName
	clusterRolesKey        = "clusterroles." + rbacv1.GroupName
	roleBindingsKey        = "rolebindings." + rbacv1.GroupName
	clusterRoleBindingsKey = "clusterrolebindings." + rbacv1.GroupName
)

// roleReader reads RBAC objects straight from the store: what was acknowledged
// counts at once. Decoded objects are kept with the revision that they are of.
type roleReader struct {
	store store.Store
	mu    sync.Mutex
	kept  map[store.Key]keptRole
}

type keptRole struct {
	revision int64
	object   any
}

// maxKeptRoles bounds what is kept. Beyond, all of it is decoded anew.
const maxKeptRoles = 10_000

func newRoleReader(s store.Store) *roleReader {
	return &roleReader{store: s, kept: map[store.Key]keptRole{}}
}

// ClusterRole implements rbac.Reader.
func (r *roleReader) ClusterRole(ctx context.Context, name string) (*rbacv1.ClusterRole, error) {
	return readRole[rbacv1.ClusterRole](ctx, r, store.Key{Resource: clusterRolesKey, Name: name})
}

// Role implements rbac.Reader.
func (r *roleReader) Role(ctx context.Context, namespace, name string) (*rbacv1.Role, error) {
	return readRole[rbacv1.Role](ctx, r, store.Key{Resource: rolesKey, Namespace: namespace, Name: name})
}

// ClusterRoleBindings implements rbac.Reader.
func (r *roleReader) ClusterRoleBindings(ctx context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	return listRoles[rbacv1.ClusterRoleBinding](ctx, r, clusterRoleBindingsKey, "")
}

// RoleBindings implements rbac.Reader.
func (r *roleReader) RoleBindings(ctx context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	return listRoles[rbacv1.RoleBinding](ctx, r, roleBindingsKey, namespace)
}

func readRole[T any](ctx context.Context, r *roleReader, key store.Key) (*T, error) {
	entry, err := r.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalidKey) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeRole[T](r, entry)
}

// listRoles returns what can be read; the rest is an error.
func listRoles[T any](ctx context.Context, r *roleReader, resource, namespace string) ([]*T, error) {
	snapshot, err := r.store.List(ctx, resource, namespace)
	if errors.Is(err, store.ErrInvalidKey) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := make([]*T, 0, len(snapshot.Entries))
	var problems []error
	for _, entry := range snapshot.Entries {
		object, err := decodeRole[T](r, entry)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		list = append(list, object)
	}
	return list, errors.Join(problems...)
}

func decodeRole[T any](r *roleReader, entry store.Entry) (*T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if kept, ok := r.kept[entry.Key]; ok && kept.revision == entry.Revision {
		return kept.object.(*T), nil
	}
	object := new(T)
	if err := json.Unmarshal(entry.Value, object); err != nil {
		return nil, fmt.Errorf("%s: %w", entry.Key, err)
	}
	if len(r.kept) >= maxKeptRoles {
		clear(r.kept)
	}
	r.kept[entry.Key] = keptRole{entry.Revision, object}
	return object, nil
}
