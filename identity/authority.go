package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"time"
)

const (
	// authorityLife is how long an authority's certificate is valid.
	authorityLife = 10 * 365 * 24 * time.Hour
	// skew is how far clocks may be apart.
	skew = 5 * time.Minute
	// DefaultOverlap is how long the authority before a rotation stays trusted
	// when nobody says.
	DefaultOverlap = 30 * 24 * time.Hour
	// MaxOverlap is the longest that is accepted.
	MaxOverlap = 366 * 24 * time.Hour
)

// authority is a certificate with its key.
type authority struct {
	Certificate string `json:"certificate"` // PEM
	Key         string `json:"key"`         // PEM, PKCS #8
	// Until is when it stops being trusted; zero: as long as it is valid.
	Until time.Time `json:"until,omitzero"`

	cert *x509.Certificate
	key  crypto.Signer
}

// authorities are those that are trusted. Current signs certificates of
// clients; Previous, while there is one, the serving certificate.
type authorities struct {
	Current  *authority `json:"current"`
	Previous *authority `json:"previous,omitempty"`
}

// server is the authority that signs the serving certificate: one that all
// kubeconfigs in use hold.
func (a authorities) server() *authority {
	if a.Previous != nil {
		return a.Previous
	}
	return a.Current
}

func (a authorities) all() []*authority {
	if a.Previous != nil {
		return []*authority{a.Current, a.Previous}
	}
	return []*authority{a.Current}
}

// bundle is what clients are to trust, as PEM.
func (a authorities) bundle() []byte {
	var b bytes.Buffer
	for _, each := range a.all() {
		b.WriteString(each.Certificate)
	}
	return b.Bytes()
}

func (a authorities) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, each := range a.all() {
		pool.AddCert(each.cert)
	}
	return pool
}

// newAuthority makes a self-signed one.
func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// Names tell authorities apart where only those are shown.
		Subject:   pkix.Name{CommonName: fmt.Sprintf("sandboxd-ca-%x", serial.Bytes()[:4])},
		NotBefore: now.Add(-skew), NotAfter: now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	a := &authority{Certificate: string(encodePEM("CERTIFICATE", der)), Key: string(encodePEM("PRIVATE KEY", rawKey))}
	return a, a.parse()
}

// parse reads the PEM texts.
func (a *authority) parse() error {
	certificate, _ := pem.Decode([]byte(a.Certificate))
	key, _ := pem.Decode([]byte(a.Key))
	if certificate == nil || key == nil {
		return errors.New("a certificate or a key is missing")
	}
	var err error
	if a.cert, err = x509.ParseCertificate(certificate.Bytes); err != nil {
		return err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(key.Bytes)
	if err != nil {
		return err
	}
	signer, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !signer.PublicKey.Equal(a.cert.PublicKey) {
		return errors.New("the key is not that of the certificate")
	}
	a.key = signer
	return nil
}

// sign issues a certificate for a public key.
func (a *authority) sign(template *x509.Certificate, public any) ([]byte, error) {
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	return x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
}

// newSerial is a number that nobody guesses and that does not come twice.
func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and always as long
	return new(big.Int).SetBytes(b[:]), nil
}

func (k *Keeper) loadAuthorities() error {
	found, err := k.load(authoritiesFile, &k.authorities)
	if err != nil {
		return err
	}
	if !found {
		first, err := newAuthority(k.clock.Now())
		if err != nil {
			return err
		}
		return k.setAuthorities(authorities{Current: first})
	}
	if k.authorities.Current == nil {
		return fmt.Errorf("%s is damaged: it has no authority: restore it from a backup, or remove it, and write all kubeconfigs anew",
			filepath.Join(k.dir, authoritiesFile))
	}
	for _, each := range k.authorities.all() {
		if err := each.parse(); err != nil {
			return fmt.Errorf("%s is damaged: %w: restore it from a backup, or remove it, and write all kubeconfigs anew",
				filepath.Join(k.dir, authoritiesFile), err)
		}
	}
	return k.save(AuthorityFile, k.authorities.bundle())
}

// setAuthorities makes others the trusted ones.
func (k *Keeper) setAuthorities(a authorities) error {
	if err := k.saveJSON(authoritiesFile, a); err != nil {
		return err
	}
	k.authorities = a
	return k.save(AuthorityFile, a.bundle())
}

// ErrRotating: a rotation is not over yet.
var ErrRotating = errors.New("the last rotation is not over")

// Rotation tells what is trusted.
type Rotation struct {
	// Since is from when on the current authority is valid, and Expires when it
	// is no longer.
	Since, Expires time.Time
	// ServingExpires is the end of the serving certificate.
	ServingExpires time.Time
	// PreviousUntil is when the one before stops being trusted; zero when there
	// is none.
	PreviousUntil time.Time
}

// Rotate puts a new authority in the place of the current one, which stays
// trusted for the overlap; without one, everything it has signed is void at
// once. It fails with ErrRotating during an overlap unless the new overlap is
// zero: then none of the old authorities is trusted any more.
func (k *Keeper) Rotate(overlap time.Duration) (Rotation, error) {
	if overlap < 0 || overlap > MaxOverlap {
		return Rotation{}, fmt.Errorf("an overlap of %v is not between 0 and %d days", overlap, int(MaxOverlap.Hours()/24))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	if err := k.settle(now); err != nil {
		return Rotation{}, err
	}
	if overlap > 0 && k.authorities.Previous != nil {
		return k.rotation(), fmt.Errorf("%w: the authority before it is trusted until %s", ErrRotating, k.authorities.Previous.Until.UTC().Format(time.RFC3339))
	}
	next, err := newAuthority(now)
	if err != nil {
		return Rotation{}, err
	}
	replaced := authorities{Current: next}
	if overlap > 0 {
		previous := *k.authorities.Current
		previous.Until = now.Add(overlap)
		replaced.Previous = &previous
	}
	if err := k.setAuthorities(replaced); err != nil {
		return Rotation{}, err
	}
	for _, r := range k.records {
		if r.Kind == Certificate {
			r.outgoing = true
			if overlap == 0 {
				r.end()
			}
		}
	}
	err = k.settle(now)
	return k.rotation(), err
}

// Rotation tells what is trusted now.
func (k *Keeper) Rotation() Rotation {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.rotation()
}

func (k *Keeper) rotation() Rotation {
	current := k.authorities.Current.cert
	r := Rotation{Since: current.NotBefore, Expires: current.NotAfter, ServingExpires: k.serving.Leaf.NotAfter}
	if old := k.authorities.Previous; old != nil {
		r.PreviousUntil = old.Until
	}
	return r
}

// Authorities are the certificates that clients are to trust, as PEM.
func (k *Keeper) Authorities() []byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.authorities.bundle()
}
