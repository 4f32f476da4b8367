package identity

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"
)

// What is in the folder.
const (
	authoritiesFile = "authorities.json"
	credentialsFile = "credentials.json"
	servingFile     = "serving.pem"
	// AuthorityFile has the certificates that clients are to trust.
	AuthorityFile = "ca.crt"
)

// Options of a Keeper.
type Options struct {
	// Dir holds everything; it is made, for its owner alone.
	Dir string
	// Names are what clients call this host by, besides localhost: names and
	// addresses.
	Names []string
	// Clock tells the time; nil means the real one.
	Clock clock.PassiveClock
	// Logger gets what is renewed.
	Logger logr.Logger
}

// Keeper keeps the authorities and the credentials. Its methods may be called
// concurrently. There must be one Keeper of a folder at a time.
type Keeper struct {
	dir   string
	names []string
	clock clock.PassiveClock
	log   logr.Logger

	mu          sync.RWMutex
	authorities authorities
	serving     *tls.Certificate
	renewAt     time.Time
	records     map[string]*record // by ID
}

// Open reads the folder, and makes what is missing in it.
func Open(o Options) (*Keeper, error) {
	k := &Keeper{dir: o.Dir, names: o.Names, clock: o.Clock, log: o.Logger, records: map[string]*record{}}
	if k.clock == nil {
		k.clock = clock.RealClock{}
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, k.problem(err)
	}
	// It may have been made by hand, with other rights.
	if err := os.Chmod(k.dir, 0o700); err != nil {
		return nil, k.problem(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.loadAuthorities(); err != nil {
		return nil, err
	}
	if err := k.loadCredentials(); err != nil {
		return nil, err
	}
	k.loadServing()
	return k, k.settle(k.clock.Now())
}

// settle brings the authorities and the serving certificate to a time: an
// overlap that is over ends, and what is due is renewed. mu is held.
func (k *Keeper) settle(now time.Time) error {
	if old := k.authorities.Previous; old != nil && !now.Before(old.Until) {
		if err := k.setAuthorities(authorities{Current: k.authorities.Current}); err != nil {
			return err
		}
		for _, r := range k.records {
			if r.outgoing {
				r.end()
			}
		}
		k.log.Info("The authority before the last rotation is trusted no longer")
	}
	if k.serving != nil && now.Before(k.renewAt) && k.servesFor(now) {
		return nil
	}
	return k.renew(now)
}

// problem names the folder in an error.
func (k *Keeper) problem(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("%s: %w", path.Path, path.Err)
	}
	return fmt.Errorf("%s: %w", k.dir, err)
}

// save replaces a file.
func (k *Keeper) save(name string, content []byte) error {
	path := filepath.Join(k.dir, name)
	f, err := os.CreateTemp(k.dir, "."+name+".") // for the owner alone
	if err != nil {
		return k.problem(err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return k.problem(err)
	}
	return k.syncDir()
}

// syncDir makes a rename last.
func (k *Keeper) syncDir() error {
	d, err := os.Open(k.dir)
	if err != nil {
		return k.problem(err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Sync(); err != nil {
		return k.problem(err)
	}
	return nil
}

// load reads a JSON file; it tells whether there is one. One that cannot be
// read is never taken for none: what was issued would be forgotten.
func (k *Keeper) load(name string, into any) (bool, error) {
	raw, err := os.ReadFile(filepath.Join(k.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, k.problem(err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return false, fmt.Errorf("%s is damaged: %w: restore it from a backup, or remove it, and write all kubeconfigs anew",
			filepath.Join(k.dir, name), err)
	}
	return true, nil
}

func (k *Keeper) saveJSON(name string, value any) error {
	raw, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return k.save(name, append(raw, '\n'))
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
