package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	xssh "golang.org/x/crypto/ssh"
)

// Key is the key pair that guests know the daemon by. It is read, or made, when
// it is first needed, and stays what it is. It may be used concurrently.
type Key struct {
	path string

	mu     sync.Mutex
	signer xssh.Signer
}

// NewKey is the key pair in a file: an OpenSSH private key of mode 0600, whose
// folder is made with mode 0700.
func NewKey(path string) *Key { return &Key{path: path} }

// Authorized is the public key as a line of an authorized_keys file, without the
// newline.
func (k *Key) Authorized() (string, error) {
	s, err := k.get()
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(xssh.MarshalAuthorizedKey(s.PublicKey()))) + " sandboxd", nil
}

func (k *Key) get() (xssh.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signer != nil {
		return k.signer, nil
	}
	text, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = k.make()
	}
	if err != nil {
		return nil, fmt.Errorf("the daemon's own key can neither be read nor made: %w", err)
	}
	signer, err := xssh.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("the daemon's own key in %s cannot be read (%w): remove the file, and a new key is made for the sandboxes to come", k.path, err)
	}
	k.signer = signer
	return signer, nil
}

// make makes a key and writes it down. A crash leaves the whole key or none.
func (k *Key) make() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := xssh.MarshalPrivateKey(private, "sandboxd")
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(block)
	dir := filepath.Dir(k.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := removeUnfinished(dir); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, unfinished+"*") // of mode 0600
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Rename(f.Name(), k.path); err != nil {
		return nil, err
	}
	return text, syncDir(dir)
}

// unfinished begins the names of keys that are being made.
const unfinished = ".new-"

// removeUnfinished removes what a process has left that was killed while it made a
// key.
func removeUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), unfinished) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
