package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxLife is the longest that a credential may be valid, and DefaultLife how
	// long it is when nobody says.
	MaxLife     = 10 * 365 * 24 * time.Hour
	DefaultLife = 365 * 24 * time.Hour
	// minLife leaves time to use one.
	minLife = time.Minute
	// keepExpired is how long a credential stays on record after its time, for
	// people to see why somebody is refused.
	keepExpired = 30 * 24 * time.Hour
	// maxCredentials bounds the record.
	maxCredentials = 10_000
	// maxGroups bounds the groups of a user, and maxName the bytes of a name.
	maxGroups = 32
	maxName   = 128
	// tokenPrefix tells people and scanners what a token is.
	tokenPrefix = "sandboxd_"
)

// Kind of a credential.
type Kind string

// The kinds.
const (
	Certificate Kind = "Certificate"
	Token       Kind = "Token"
)

// Credential is what is on record of one.
type Credential struct {
	ID      string    `json:"id"`
	Kind    Kind      `json:"kind"`
	User    string    `json:"user"`
	Groups  []string  `json:"groups,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// record is a credential with what proves it.
type record struct {
	Credential
	// Proof is the hex of the SHA-256 of a token's secret, or a certificate's
	// serial number.
	Proof string `json:"proof"`

	// valid ends when the credential is taken back, or its authority is.
	valid context.Context
	end   context.CancelFunc
	// outgoing: it was signed before the last rotation, while this process ran.
	outgoing bool
}

func (r *record) begin() { r.valid, r.end = context.WithCancel(context.Background()) }

// Errors that tell what a caller did wrong.
var (
	ErrInvalid  = errors.New("invalid")
	ErrNotFound = errors.New("not found")
)

// Wish is a credential that is asked for.
type Wish struct {
	User   string
	Groups []string
	// Life is how long it is valid; 0 means DefaultLife.
	Life time.Duration
}

// check refuses what is not a name of a client's. Names that begin with system:
// are not given away: they stand for rights that nobody granted here.
func (w *Wish) check() error {
	if w.Life == 0 {
		w.Life = DefaultLife
	}
	if w.Life < minLife || w.Life > MaxLife {
		return fmt.Errorf("a duration of %v is not between %v and %d days: %w", w.Life, minLife, int(MaxLife.Hours()/24), ErrInvalid)
	}
	if len(w.Groups) > maxGroups {
		return fmt.Errorf("%d groups are more than %d: %w", len(w.Groups), maxGroups, ErrInvalid)
	}
	for i, name := range append([]string{w.User}, w.Groups...) {
		what := "user"
		if i > 0 {
			what = "group"
		}
		switch {
		case name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }):
			return fmt.Errorf("%s %q is not a name of 1 to %d printable characters: %w", what, name, maxName, ErrInvalid)
		case strings.HasPrefix(name, "system:"):
			return fmt.Errorf("%s %q is one of the system's own, which begin with \"system:\": choose another: %w", what, name, ErrInvalid)
		}
	}
	slices.Sort(w.Groups)
	w.Groups = slices.Compact(w.Groups)
	return nil
}

// IssueToken records a new token and returns it; it is not shown again.
func (k *Keeper) IssueToken(w Wish) (Credential, string, error) {
	if err := w.check(); err != nil {
		return Credential{}, "", err
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return Credential{}, "", err
	}
	text := base64.RawURLEncoding.EncodeToString(secret[:])
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return Credential{}, "", err
	}
	r := k.newRecord(w, Token, hex.EncodeToString(id[:]), hashOf(text))
	if err := k.add(r); err != nil {
		return Credential{}, "", err
	}
	return r.Credential, tokenPrefix + r.ID + "_" + text, nil
}

// SignRequest records and returns a certificate for the key of a certificate
// request (PEM), of which nothing else is taken over.
func (k *Keeper) SignRequest(w Wish, request []byte) (Credential, []byte, error) {
	if err := w.check(); err != nil {
		return Credential{}, nil, err
	}
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return Credential{}, nil, fmt.Errorf("no certificate request (PEM) was sent: %w", ErrInvalid)
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = parsed.CheckSignature() // its sender has the key
	}
	if err != nil {
		return Credential{}, nil, fmt.Errorf("the certificate request: %v: %w", err, ErrInvalid)
	}
	serial, err := newSerial()
	if err != nil {
		return Credential{}, nil, err
	}
	number := hex.EncodeToString(serial.Bytes())
	r := k.newRecord(w, Certificate, number[:16], number)
	k.mu.RLock()
	signer := k.authorities.Current
	k.mu.RUnlock()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: w.User, Organization: w.Groups},
		NotBefore:    r.Created.Add(-skew), NotAfter: r.Expires,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := signer.sign(template, parsed.PublicKey)
	if err != nil {
		return Credential{}, nil, err
	}
	r.Expires = template.NotAfter.UTC().Truncate(time.Second)
	if err := k.add(r); err != nil {
		return Credential{}, nil, err
	}
	return r.Credential, encodePEM("CERTIFICATE", der), nil
}

func (k *Keeper) newRecord(w Wish, kind Kind, id, proof string) *record {
	now := k.clock.Now().UTC().Truncate(time.Second)
	r := &record{Credential: Credential{
		ID: id, Kind: kind, User: w.User, Groups: w.Groups, Created: now, Expires: now.Add(w.Life),
	}, Proof: proof}
	r.begin()
	return r
}

// add puts a record on disk, and then into force.
func (k *Keeper) add(r *record) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.records) >= maxCredentials {
		return fmt.Errorf("%d credentials are on record, which is the most: revoke some", len(k.records))
	}
	if k.records[r.ID] != nil {
		return fmt.Errorf("credential %s exists", r.ID) // once in 2^64
	}
	k.records[r.ID] = r
	if err := k.saveRecords(); err != nil {
		delete(k.records, r.ID)
		return err
	}
	return nil
}

// List tells of all credentials, the oldest first.
func (k *Keeper) List() []Credential {
	k.mu.RLock()
	defer k.mu.RUnlock()
	list := make([]Credential, 0, len(k.records))
	for _, r := range k.sorted() {
		list = append(list, r.Credential)
	}
	return list
}

func (k *Keeper) sorted() []*record {
	all := make([]*record, 0, len(k.records))
	for _, r := range k.records {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *record) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// Revoke takes back the credential with an ID, or all of a user's, and returns
// them. What they have under way ends. It fails with ErrNotFound when there is
// none.
func (k *Keeper) Revoke(idOrUser string) ([]Credential, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var gone []*record
	for _, r := range k.sorted() {
		if r.ID == idOrUser || r.User == idOrUser {
			gone = append(gone, r)
			delete(k.records, r.ID)
		}
	}
	if len(gone) == 0 {
		return nil, fmt.Errorf("user or credential %q: %w", idOrUser, ErrNotFound)
	}
	if err := k.saveRecords(); err != nil {
		for _, r := range gone { // still in force after a restart, so now too
			k.records[r.ID] = r
		}
		return nil, err
	}
	var list []Credential
	for _, r := range gone {
		r.end()
		list = append(list, r.Credential)
	}
	return list, nil
}

func (k *Keeper) loadCredentials() error {
	var stored []*record
	if _, err := k.load(credentialsFile, &stored); err != nil {
		return err
	}
	for _, r := range stored {
		r.begin()
		k.records[r.ID] = r
	}
	return nil
}

// saveRecords writes the record, without what expired long ago. mu is held.
func (k *Keeper) saveRecords() error {
	old := k.clock.Now().Add(-keepExpired)
	for id, r := range k.records {
		if r.Expires.Before(old) {
			delete(k.records, id)
		}
	}
	return k.saveJSON(credentialsFile, k.sorted())
}

// hashOf is what is kept of a token's secret. The secret is random and long, so
// that nothing slower is needed to keep it from being guessed.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
