package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	// UsersPath has who may come in over TCP: GET lists them, POST a UserWish
	// gives a UserGrant, DELETE with ParamName takes credentials back.
	UsersPath = "/admin/users"
	// PKIPath has an Authorities: GET tells, POST puts a new one beside the old,
	// for ParamOverlap.
	PKIPath = "/admin/pki"

	// ParamName is a user or the ID of a credential.
	ParamName = "name"
	// ParamOverlap is a duration.
	ParamOverlap = "overlap"
)

// The roles that a UserWish may name.
const (
	RoleAdmin    = "admin"
	RoleUser     = "user"
	RoleReadOnly = "read-only"
)

// UserWish asks for a credential.
type UserWish struct {
	User   string   `json:"user"`
	Groups []string `json:"groups,omitempty"`
	// Role that the user has from now on, in the place of the one that he was
	// given so before; empty leaves his rights alone.
	Role string `json:"role,omitempty"`
	// Namespaces that the role is for; empty means all, and for RoleUser the
	// namespace default.
	Namespaces []string `json:"namespaces,omitempty"`
	// Seconds that the credential is valid; 0 means a year.
	Seconds int64 `json:"seconds,omitempty"`
	// CertificateRequest (PEM) of the key that a certificate is wanted for; empty
	// asks for a token.
	CertificateRequest string `json:"certificateRequest,omitempty"`
}

// UserGrant is a credential that was given.
type UserGrant struct {
	Credential
	// Token or Certificate (PEM) is the credential itself. The daemon does not
	// keep it.
	Token       string `json:"token,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	Access
	// Created are the namespaces that were made for the role.
	CreatedNamespaces []string `json:"createdNamespaces,omitempty"`
}

// Credential is what the daemon keeps of one.
type Credential struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"` // Certificate or Token
	User    string    `json:"user"`
	Groups  []string  `json:"groups,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// Roles of the user, as he was given them with a credential.
	Roles []string `json:"roles,omitempty"`
}

// Access is how the daemon is reached over TCP.
type Access struct {
	// Authorities to trust, as PEM.
	Authorities string `json:"authorities"`
	// Addresses that the daemon listens on.
	Addresses []string `json:"addresses,omitempty"`
}

// Authorities tell of the daemon's certificates.
type Authorities struct {
	Access
	// Expires is when the authority that signs is no longer valid.
	Expires time.Time `json:"expires"`
	// PreviousUntil is when the one before stops being trusted; nil when there is
	// none.
	PreviousUntil *time.Time `json:"previousUntil,omitempty"`
	// ServingExpires is the end of the certificate that the daemon shows, which it
	// renews before.
	ServingExpires time.Time `json:"servingExpires"`
}

// GrantUser gives a user a credential, and a role if one is named.
func (c *Client) GrantUser(ctx context.Context, wish UserWish) (UserGrant, error) {
	raw, err := json.Marshal(wish)
	if err != nil {
		return UserGrant{}, err
	}
	var grant UserGrant
	return grant, c.ask(ctx, http.MethodPost, UsersPath, nil, bytes.NewReader(raw), &grant)
}

// Users lists the credentials.
func (c *Client) Users(ctx context.Context) ([]Credential, error) {
	var list []Credential
	return list, c.ask(ctx, http.MethodGet, UsersPath, nil, nil, &list)
}

// RevokeUser takes back a credential by its ID, or all of a user's with the role
// that came with them, and returns them.
func (c *Client) RevokeUser(ctx context.Context, name string) ([]Credential, error) {
	var list []Credential
	return list, c.ask(ctx, http.MethodDelete, UsersPath, url.Values{ParamName: {name}}, nil, &list)
}

// Authorities tells of the daemon's certificates.
func (c *Client) Authorities(ctx context.Context) (Authorities, error) {
	var a Authorities
	return a, c.ask(ctx, http.MethodGet, PKIPath, nil, nil, &a)
}

// RotateAuthorities puts a new authority beside the old one, which stays trusted
// for a while.
func (c *Client) RotateAuthorities(ctx context.Context, overlap time.Duration) (Authorities, error) {
	var a Authorities
	return a, c.ask(ctx, http.MethodPost, PKIPath, url.Values{ParamOverlap: {overlap.String()}}, nil, &a)
}

// ask asks one of the daemon's own endpoints.
func (c *Client) ask(ctx context.Context, method, path string, query url.Values, body io.Reader, into any) error {
	address := c.base.JoinPath(path)
	address.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, method, address.String(), body)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return transportError(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return responseError(response)
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("the daemon's answer cannot be read: %w", err)
	}
	return nil
}
