package daemon

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/identity"
)

// bindings is an API server's, whose calls may be made to fail.
func bindings(t *testing.T, calls interceptor.Funcs) *granter {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(rbacv1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return &granter{fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(calls).Build()}
}

func (g *granter) give(t *testing.T, wish client.UserWish) error {
	t.Helper()
	plan, err := planGrant(wish)
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.apply(t.Context(), wish.User, plan)
	return err
}

// TestRevokeAgain: a user whose roles could not be removed with his credentials has them
// removed by the next try, rather than leave them to the next of his name.
func TestRevokeAgain(t *testing.T) {
	broken := true
	g := bindings(t, interceptor.Funcs{Delete: func(ctx context.Context, c crclient.WithWatch, o crclient.Object, options ...crclient.DeleteOption) error {
		if broken {
			return apierrors.NewServiceUnavailable("not now")
		}
		return c.Delete(ctx, o, options...)
	}})
	keeper, err := identity.Open(identity.Options{Dir: t.TempDir(), Logger: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{keeper: keeper, granter: g, log: logr.Discard()}
	if _, _, err := keeper.IssueToken(identity.Wish{User: "alice", Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if err := g.give(t, client.UserWish{User: "alice", Role: client.RoleUser, Namespaces: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequest(http.MethodDelete, client.UsersPath+"?"+client.ParamName+"=alice", nil)
	if _, err := r.revoke(request); !apierrors.IsServiceUnavailable(err) {
		t.Fatalf("got %v", err)
	}
	if len(keeper.List()) != 0 {
		t.Error("the credential is in force because its role could not be removed")
	}
	broken = false
	if _, err := r.revoke(request); err != nil {
		t.Errorf("again: %v", err)
	}
	if left, err := g.bindings(t.Context(), "alice"); err != nil || len(left) != 0 {
		t.Errorf("left are %v (%v)", left, err)
	}
	if _, err := r.revoke(request); !apierrors.IsNotFound(err) {
		t.Errorf("with nothing left: %v", err)
	}
}

// TestRolesAreExchangedWithoutAGap: at each moment of a change of roles, a user has the
// one before or the one after, or both for a while.
func TestRolesAreExchangedWithoutAGap(t *testing.T) {
	var g *granter
	looked := 0
	look := func() {
		t.Helper()
		looked++
		if roles, err := g.roles(t.Context(), "alice"); err != nil || len(roles) == 0 {
			t.Errorf("roles %v (%v)", roles, err)
		}
	}
	given := false
	g = bindings(t, interceptor.Funcs{
		Create: func(ctx context.Context, c crclient.WithWatch, o crclient.Object, options ...crclient.CreateOption) error {
			if given {
				look()
			}
			return c.Create(ctx, o, options...)
		},
		Delete: func(ctx context.Context, c crclient.WithWatch, o crclient.Object, options ...crclient.DeleteOption) error {
			defer look()
			return c.Delete(ctx, o, options...)
		},
	})
	for _, c := range []struct {
		wish client.UserWish
		want string
	}{
		{client.UserWish{Role: client.RoleUser, Namespaces: []string{"a"}}, "user@a"},
		{client.UserWish{Role: client.RoleUser, Namespaces: []string{"b", "a"}}, "user@a user@b"},
		{client.UserWish{Role: client.RoleReadOnly, Namespaces: []string{"b"}}, "read-only@b"},
		{client.UserWish{Role: client.RoleAdmin}, "admin"},
		{client.UserWish{Role: client.RoleAdmin}, "admin"},
		{client.UserWish{Role: client.RoleReadOnly}, "read-only"},
	} {
		c.wish.User = "alice"
		if err := g.give(t, c.wish); err != nil {
			t.Fatalf("%+v: %v", c.wish, err)
		}
		given = true
		if roles, err := g.roles(t.Context(), "alice"); err != nil || strings.Join(roles, " ") != c.want {
			t.Errorf("%+v: got %v (%v), want %s", c.wish, roles, err, c.want)
		}
	}
	if looked == 0 {
		t.Error("nothing was exchanged")
	}
}
