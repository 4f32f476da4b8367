package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/identity"
)

// maxAdminBody is the largest body of the daemon's own endpoints.
const maxAdminBody = 64 << 10

// remote is the way in over TCP: its listeners, and who is known there.
//
//	GET    /admin/users         who has credentials
//	POST   /admin/users         gives somebody one, and a role
//	DELETE /admin/users?name=   takes them back
//	GET    /admin/pki           the authorities that clients are to trust
//	POST   /admin/pki?overlap=  puts a new one beside the old
type remote struct {
	keeper    *identity.Keeper
	listeners []net.Listener
	log       logr.Logger
	granter   *granter
}

// openRemote opens the addresses, and what clients are known by.
func openRemote(o Options) (*remote, error) {
	r := &remote{log: o.Logger.WithName("access")}
	names := o.Config.TLS.Names
	for _, address := range o.Config.Listen {
		if parsed, err := netip.ParseAddrPort(address); err == nil {
			names = append(slices.Clone(names), parsed.Addr().String())
		}
	}
	var err error
	r.keeper, err = identity.Open(identity.Options{Dir: filepath.Join(o.Config.DataDir, pkiDir), Names: names, Logger: r.log})
	if err != nil {
		return nil, err
	}
	for _, address := range o.Config.Listen {
		l, err := net.Listen("tcp", address)
		if err != nil {
			r.close()
			return nil, fmt.Errorf("listen %s: %w: choose a free address of this host", address, err)
		}
		r.listeners = append(r.listeners, l)
	}
	return r, nil
}

func (r *remote) close() {
	for _, l := range r.listeners {
		_ = l.Close() // again, after its server has
	}
}

// connect hands over the way to the objects.
func (r *remote) connect(config *rest.Config) (err error) {
	r.granter, err = newGranter(config)
	return err
}

// Authenticate implements apiserver.Authenticator.
func (r *remote) Authenticate(request *http.Request) (apiserver.Login, error) {
	return loginOf(r.keeper.Authenticate(request))
}

// AuthenticateToken implements apiserver.Authenticator.
func (r *remote) AuthenticateToken(_ context.Context, token string) (apiserver.Login, error) {
	return loginOf(r.keeper.AuthenticateToken(token))
}

func loginOf(i identity.Identity, err error) (apiserver.Login, error) {
	if errors.Is(err, identity.ErrNone) {
		return apiserver.Login{}, apiserver.ErrUnauthenticated
	}
	if err != nil {
		return apiserver.Login{}, err
	}
	return apiserver.Login{
		User:  apiserver.User{Name: i.User, Groups: slices.Clone(i.Groups)},
		Until: i.Expires, Valid: i.Valid,
	}, nil
}

func (r *remote) handle(mux *http.ServeMux) {
	for pattern, serve := range map[string]func(*http.Request) (any, error){
		"GET " + client.UsersPath:    r.list,
		"POST " + client.UsersPath:   r.grant,
		"DELETE " + client.UsersPath: r.revoke,
		"GET " + client.PKIPath:      r.authorities,
		"POST " + client.PKIPath:     r.rotate,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, request *http.Request) {
			request.Body = http.MaxBytesReader(w, request.Body, maxAdminBody)
			answer, err := serve(request)
			r.answer(w, answer, err)
		})
	}
}

// answer sends an answer, or an error as a Status.
func (r *remote) answer(w http.ResponseWriter, answer any, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err == nil {
		_ = json.NewEncoder(w).Encode(answer) // whoever asked is gone when this fails
		return
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		r.log.Error(err, "A request about users failed")
		status = apierrors.NewInternalError(err)
	}
	s := status.Status()
	s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	w.WriteHeader(int(s.Code))
	_ = json.NewEncoder(w).Encode(s)
}

func (r *remote) list(request *http.Request) (any, error) {
	list := []client.Credential{}
	for _, c := range r.keeper.List() {
		roles, err := r.granter.roles(request.Context(), c.User)
		if err != nil {
			return nil, err
		}
		list = append(list, credentialOf(c, roles))
	}
	return list, nil
}

func credentialOf(c identity.Credential, roles []string) client.Credential {
	return client.Credential{
		ID: c.ID, Kind: string(c.Kind), User: c.User, Groups: c.Groups, Created: c.Created, Expires: c.Expires, Roles: roles,
	}
}

func (r *remote) grant(request *http.Request) (any, error) {
	var wish client.UserWish
	d := json.NewDecoder(request.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&wish); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the wish cannot be read: %v", err))
	}
	if wish.Seconds < 0 || wish.Seconds > int64(identity.MaxLife/time.Second) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("a duration of %s is not between 1 minute and %d days", wished(wish.Seconds), int(identity.MaxLife.Hours()/24)))
	}
	apiserver.Annotate(request.Context(), "granted", fmt.Sprintf("user=%q groups=%q role=%q namespaces=%q", wish.User, wish.Groups, wish.Role, wish.Namespaces))
	plan, err := planGrant(wish)
	if err != nil {
		return nil, err
	}
	w := identity.Wish{User: wish.User, Groups: wish.Groups, Life: time.Duration(wish.Seconds) * time.Second}
	grant := client.UserGrant{}
	var made identity.Credential
	if wish.CertificateRequest != "" {
		var certificate []byte
		made, certificate, err = r.keeper.SignRequest(w, []byte(wish.CertificateRequest))
		grant.Certificate = string(certificate)
	} else {
		made, grant.Token, err = r.keeper.IssueToken(w)
	}
	if errors.Is(err, identity.ErrInvalid) {
		return nil, apierrors.NewBadRequest(strings.TrimSuffix(err.Error(), ": "+identity.ErrInvalid.Error())) // the kind says nothing to people
	}
	if err != nil {
		return nil, err
	}
	// The credential first: its name was checked. Without the role it opens nothing.
	if wish.Role != "" {
		if grant.CreatedNamespaces, err = r.granter.apply(request.Context(), wish.User, plan); err != nil {
			_, undo := r.keeper.Revoke(made.ID)
			return nil, errors.Join(err, undo)
		}
	}
	roles, err := r.granter.roles(request.Context(), wish.User)
	if err != nil {
		return nil, err
	}
	grant.Credential, grant.Access = credentialOf(made, roles), r.access()
	r.log.Info("A credential was given", "user", made.User, "id", made.ID, "kind", made.Kind, "expires", made.Expires, "role", wish.Role)
	return grant, nil
}

func (r *remote) revoke(request *http.Request) (any, error) {
	name := request.URL.Query().Get(client.ParamName)
	gone, err := r.keeper.Revoke(name)
	none := errors.Is(err, identity.ErrNotFound)
	if err != nil && !none {
		return nil, err
	}
	// Also when nothing is in force any more: a try before may have failed here, and who
	// is given that name next is not to find its roles. A credential's ID has none.
	unbound, err := r.granter.clear(request.Context(), name)
	if err != nil {
		return nil, err
	}
	if none && unbound == 0 {
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
			Message: fmt.Sprintf("nothing was given to %q, and no credential has that ID", name),
		}}
	}
	list := []client.Credential{}
	for _, c := range gone {
		list = append(list, credentialOf(c, nil))
		r.log.Info("A credential was taken back", "user", c.User, "id", c.ID)
	}
	return list, nil
}

func (r *remote) access() client.Access {
	a := client.Access{Authorities: string(r.keeper.Authorities())}
	for _, l := range r.listeners {
		a.Addresses = append(a.Addresses, l.Addr().String())
	}
	return a
}

func (r *remote) authorities(*http.Request) (any, error) {
	return r.authoritiesOf(r.keeper.Rotation()), nil
}

func (r *remote) authoritiesOf(rotation identity.Rotation) client.Authorities {
	a := client.Authorities{Access: r.access(), Expires: rotation.Expires, ServingExpires: rotation.ServingExpires}
	if !rotation.PreviousUntil.IsZero() {
		a.PreviousUntil = &rotation.PreviousUntil
	}
	return a
}

func (r *remote) rotate(request *http.Request) (any, error) {
	overlap, err := time.ParseDuration(request.URL.Query().Get(client.ParamOverlap))
	if err != nil || overlap < 0 || overlap > identity.MaxOverlap {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("overlap %q is not a duration between 0 and %d days", request.URL.Query().Get(client.ParamOverlap), int(identity.MaxOverlap.Hours()/24)))
	}
	rotation, err := r.keeper.Rotate(overlap)
	if errors.Is(err, identity.ErrRotating) {
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict, Message: err.Error(),
		}}
	}
	if err != nil {
		return nil, err
	}
	r.log.Info("The authority was rotated", "previousUntil", rotation.PreviousUntil)
	return r.authoritiesOf(rotation), nil
}

// wished is a number of seconds in words, also where it is too large for a duration.
func wished(seconds int64) string {
	if d := time.Duration(seconds) * time.Second; int64(d/time.Second) == seconds {
		return d.String()
	}
	return fmt.Sprintf("%d seconds", seconds)
}
