package identity

import (
	"context"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"
)

// Identity is who a client is.
type Identity struct {
	Credential
	// Valid ends when the credential is taken back.
	Valid context.Context
}

// ErrNone: the request shows no credential.
var ErrNone = errors.New("no credential")

// ErrRefused: the credential that the request shows is not valid. Why is not
// told to clients: Reason has it for the log.
var ErrRefused = errors.New("the credential is not valid")

// maxToken is longer than any token of ours.
const maxToken = 256

// Authenticate tells who makes a request over TLS: by its bearer token if it has
// one, else by its connection's certificate. It fails with ErrNone or
// ErrRefused. It reads nothing from disk and takes the same steps whichever
// credential is wrong.
func (k *Keeper) Authenticate(r *http.Request) (Identity, error) {
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return Identity{}, ErrRefused
		}
		return k.AuthenticateToken(strings.TrimSpace(token))
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return Identity{}, ErrNone
	}
	return k.authenticateCertificate(r.TLS.PeerCertificates)
}

// AuthenticateToken tells whose a bearer token is, or fails with ErrRefused.
func (k *Keeper) AuthenticateToken(token string) (Identity, error) {
	if len(token) > maxToken {
		return Identity{}, ErrRefused
	}
	id, secret, ok := strings.Cut(strings.TrimPrefix(token, tokenPrefix), "_")
	if !ok || !strings.HasPrefix(token, tokenPrefix) {
		return Identity{}, ErrRefused
	}
	return k.accept(Token, id, hashOf(secret))
}

func (k *Keeper) authenticateCertificate(chain []*x509.Certificate) (Identity, error) {
	leaf := chain[0]
	now := k.clock.Now()
	k.mu.RLock()
	trusted, old := k.trusted(now), k.authorities.Previous
	k.mu.RUnlock()
	// Only leaves are ours: what else a client sends is not looked at.
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: trusted, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Identity{}, ErrRefused
	}
	number := hex.EncodeToString(leaf.SerialNumber.Bytes())
	if len(number) < 16 {
		return Identity{}, ErrRefused
	}
	i, err := k.accept(Certificate, number[:16], number)
	if err == nil && old != nil && chains[0][len(chains[0])-1].Equal(old.cert) && old.Until.Before(i.Expires) {
		i.Expires = old.Until // it counts no longer than who signed it
	}
	return i, err
}

// trusted are the authorities at a time. mu is held.
func (k *Keeper) trusted(now time.Time) *x509.CertPool {
	a := k.authorities
	if a.Previous != nil && !now.Before(a.Previous.Until) {
		a.Previous = nil
	}
	return a.pool()
}

// accept looks a credential up, and compares its proof in constant time.
func (k *Keeper) accept(kind Kind, id, proof string) (Identity, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	r := k.records[id]
	if r == nil {
		r = &record{} // no proof equals none
	}
	same := subtle.ConstantTimeCompare([]byte(r.Proof), []byte(proof)) == 1
	now := k.clock.Now()
	if !same || r.Kind != kind || !now.Before(r.Expires) || r.valid.Err() != nil {
		return Identity{}, ErrRefused
	}
	return Identity{Credential: r.Credential, Valid: r.valid}, nil
}
