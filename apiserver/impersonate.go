package apiserver

import (
	"context"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// impersonatorFrom tells who really makes a request that is made as somebody
// else.
func impersonatorFrom(ctx context.Context) (User, bool) {
	u, ok := ctx.Value(impersonatorKey).(User)
	return u, ok
}

// impersonate makes a request that of the user whom its headers name, if who
// makes it may act as him and his groups.
func (s *Server) impersonate(r *http.Request) (*http.Request, error) {
	name, groups, wanted, err := impersonated(r.Header)
	if err != nil || !wanted {
		return r, err
	}
	self := UserFrom(r.Context())
	asked := []Action{{Verb: "impersonate", Resource: "users", Name: name}}
	as := User{Name: name, Groups: groups}
	if account, ok := strings.CutPrefix(name, "system:serviceaccount:"); ok {
		namespace, account, ok := strings.Cut(account, ":")
		if !ok {
			return r, apierrors.NewBadRequest("Impersonate-User: " + printable(name) + " is not system:serviceaccount:NAMESPACE:NAME")
		}
		asked[0] = Action{Verb: "impersonate", Resource: "serviceaccounts", Namespace: namespace, Name: account}
		if len(groups) == 0 {
			as.Groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}
		}
	}
	for _, group := range groups {
		asked = append(asked, Action{Verb: "impersonate", Resource: "groups", Name: group})
	}
	for _, a := range asked {
		a.Version = "v1"
		if s.authorizer != nil {
			if err := s.require(r.Context(), self, a); err != nil {
				return r, err
			}
		}
	}
	if name == anonymousUser.Name {
		if !slices.Contains(as.Groups, groupUnauthenticated) {
			as.Groups = append(slices.Clone(as.Groups), groupUnauthenticated)
		}
	} else {
		as = Login{User: as}.known()
	}
	// What acts further on must not act again.
	r = r.WithContext(context.WithValue(context.WithValue(r.Context(), userKey, as), impersonatorKey, self))
	r.Header = r.Header.Clone()
	r.Header.Del(authenticationv1.ImpersonateUserHeader)
	r.Header.Del(authenticationv1.ImpersonateGroupHeader)
	return r, nil
}

// impersonated reads the headers.
func impersonated(h http.Header) (name string, groups []string, wanted bool, err error) {
	name, groups = h.Get(authenticationv1.ImpersonateUserHeader), h.Values(authenticationv1.ImpersonateGroupHeader)
	for header := range h {
		if strings.HasPrefix(header, authenticationv1.ImpersonateUserExtraHeaderPrefix) || http.CanonicalHeaderKey(authenticationv1.ImpersonateUIDHeader) == header {
			return "", nil, false, apierrors.NewBadRequest(header + " is not supported: users have a name and groups only")
		}
	}
	if name == "" && len(groups) > 0 {
		return "", nil, false, apierrors.NewBadRequest("Impersonate-Group without Impersonate-User: say which user too")
	}
	return name, groups, name != "", nil
}

// known is the user of a login, who is in the group of those who are.
func (l Login) known() User {
	u := l.User
	if !slices.Contains(u.Groups, groupAuthenticated) {
		u.Groups = append(slices.Clone(u.Groups), groupAuthenticated)
	}
	return u
}
