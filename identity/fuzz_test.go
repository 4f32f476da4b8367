package identity_test

import (
	"encoding/pem"
	"errors"
	"net/http"
	"path/filepath"
	"testing"

	"sandboxd.dev/sandboxd/identity"
)

// FuzzAuthenticate: no header but that with the token shows anybody.
func FuzzAuthenticate(f *testing.F) {
	k, err := identity.Open(identity.Options{Dir: filepath.Join(f.TempDir(), "pki")})
	if err != nil {
		f.Fatal(err)
	}
	_, token, err := k.IssueToken(identity.Wish{User: "alice"})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"", "Bearer", "Bearer ", "Bearer x", "Bearer sandboxd_", "Bearer sandboxd__", "Basic YTpi", "Bearer " + token[:len(token)-1]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r, _ := http.NewRequest(http.MethodGet, "https://x/", nil)
		r.Header["Authorization"] = []string{header}
		id, err := k.Authenticate(r)
		switch {
		case err == nil:
			t.Fatalf("%q is %s", header, id.User)
		case header == "" && !errors.Is(err, identity.ErrNone), header != "" && !errors.Is(err, identity.ErrRefused):
			t.Fatalf("%q: %v", header, err)
		}
	})
}

// FuzzSignRequest: of what clients want signed nothing but a key is taken over.
func FuzzSignRequest(f *testing.F) {
	k, err := identity.Open(identity.Options{Dir: filepath.Join(f.TempDir(), "pki")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{0x30, 0x82})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, request := range [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})} {
			c, _, err := k.SignRequest(identity.Wish{User: "alice"}, request)
			if err != nil && !errors.Is(err, identity.ErrInvalid) {
				t.Fatal(err)
			}
			if err == nil {
				if _, err := k.Revoke(c.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
