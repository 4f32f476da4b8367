// Package manifest reads manifests from files, directories, URLs and standard
// input.
//
//	FILE|DIR|URL|- ──▶ bounded bytes ──▶ documents ──▶ aliases counted ──▶ objects
//
// Manifests may come from anywhere, so everything is bounded: the size of files
// and documents, their number, how deep they nest and how far YAML's aliases
// expand. Errors are one sentence that begins with the source and the document,
// and give lines as an editor counts them.
package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Limits of what is read.
const (
	// MaxFile is the greatest size of a file, in bytes.
	MaxFile = 4 << 20
	// MaxDocument is the greatest size of a document, in bytes, before and after
	// its aliases are expanded.
	MaxDocument = 1 << 20
	// MaxObjects is how many objects may be read at a time.
	MaxObjects = 10_000
	// fetchTimeout bounds the reading of a URL.
	fetchTimeout = 30 * time.Second
)

// Object is one object and where it comes from.
type Object struct {
	*unstructured.Unstructured
	// Source is the file and, where it has several, the document.
	Source string
}

// Errorf makes an error about the object's place in its file.
func (o Object) Errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %w", o.Source, fmt.Errorf(format, args...))
}

// ID names the object in messages.
func (o Object) ID() string {
	if ns := o.GetNamespace(); ns != "" {
		return fmt.Sprintf("%s %s/%s", o.GetKind(), ns, o.GetName())
	}
	return fmt.Sprintf("%s %s", o.GetKind(), o.GetName())
}

// Options say how to read.
type Options struct {
	// Recursive looks in directories below directories too.
	Recursive bool
	// Stdin is read for the name "-".
	Stdin io.Reader
}

// Read reads the objects in what the names name, in order.
func Read(ctx context.Context, names []string, o Options) ([]Object, error) {
	if len(names) == 0 {
		return nil, errors.New("no manifests were named: use -f FILE, -f DIRECTORY, -f URL or -f - for standard input")
	}
	if n := count(names, "-"); n > 1 {
		return nil, errors.New("standard input can be read once only: name - one time")
	}
	var all []Object
	for _, name := range names {
		files, err := expand(name, o.Recursive)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			objects, err := readOne(ctx, file, o)
			if err != nil {
				return nil, err
			}
			if all = append(all, objects...); len(all) > MaxObjects {
				return nil, fmt.Errorf("%s: with it there are more than %d objects: apply them in parts", file, MaxObjects)
			}
		}
	}
	return all, nil
}

func count(names []string, name string) int {
	n := 0
	for _, other := range names {
		if other == name {
			n++
		}
	}
	return n
}

func isURL(name string) bool {
	return strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")
}

// expand lists the files that a name stands for.
func expand(name string, recursive bool) ([]string, error) {
	if name == "-" || isURL(name) {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("%s: it cannot be read: %w", name, reason(err))
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var files []string
	below := false
	// A link to a directory that is named is followed; the walk itself follows none.
	root := name + string(filepath.Separator)
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fmt.Errorf("%s: it cannot be read: %w", path, reason(err))
		case entry.IsDir() && path != root && !recursive:
			below = true
			return fs.SkipDir
		case !entry.IsDir() && isManifest(path):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		hint := ""
		if below {
			hint = "; add -R to look in the directories below it"
		}
		return nil, fmt.Errorf("%s: there are no manifests (*.yaml, *.yml or *.json) in this directory%s", name, hint)
	}
	return files, nil
}

func isManifest(path string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(path)))
}

// readOne reads the objects of one file.
func readOne(ctx context.Context, name string, o Options) ([]Object, error) {
	raw, err := load(ctx, name, o)
	if err != nil {
		return nil, err
	}
	if name == "-" {
		name = "standard input"
	}
	objects, err := Parse(name, raw)
	if err == nil && len(objects) == 0 {
		err = fmt.Errorf("%s: it holds no manifest", name)
	}
	return objects, err
}

// load reads a file as a whole, within bounds.
func load(ctx context.Context, name string, o Options) ([]byte, error) {
	var r io.Reader
	switch {
	case name == "-":
		name, r = "standard input", o.Stdin
	case isURL(name):
		body, err := fetch(ctx, name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = body.Close() }()
		r = body
	default:
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("%s: it cannot be read: %w", name, reason(err))
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	raw, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: it cannot be read: %w", name, reason(err))
	case len(raw) > MaxFile:
		return nil, fmt.Errorf("%s: it is larger than %d MiB: split it into several files", name, MaxFile>>20)
	}
	return raw, nil
}

// fetch opens a URL.
func fetch(ctx context.Context, address string) (io.ReadCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%s: it is not a valid address", address)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%s: it cannot be fetched: %w", address, reason(err))
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		cancel()
		return nil, fmt.Errorf("%s: it cannot be fetched: the server answered %s", address, response.Status)
	}
	return closer{response.Body, cancel}, nil
}

// closer ends the request with its body.
type closer struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c closer) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// reason leaves out the path or address that an error repeats.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
