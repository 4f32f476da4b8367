// Package hostpath decides which paths of the host a manifest may name.
//
// A manifest is written by somebody who may use the daemon, not by somebody
// who may read the whole host. So every path in a manifest is resolved first,
// symlinks and all, and must then lie below one of the roots that the host's
// owner allowed and outside of the daemon's own folders:
//
//	path in the manifest ── absolute, clean ──▶ symlinks resolved ──▶ below a root?
//
// The result is what must be opened or handed to a hypervisor: the path that
// was checked, not the one that was asked for.
package hostpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The errors of a Policy, to be tested with errors.Is.
var (
	// ErrInvalid: the path itself is malformed or not of the wanted kind.
	ErrInvalid = errors.New("invalid path")
	// ErrForbidden: the path, or what it leads to, is not below an allowed root.
	ErrForbidden = errors.New("path not allowed")
	// ErrNotFound: nothing exists there.
	ErrNotFound = errors.New("no such path")
)

// Policy holds the allowed roots. It is immutable and safe for concurrent use.
type Policy struct {
	roots    []string
	denied   []string
	imageDir string
}

// Options of a Policy.
type Options struct {
	// Roots that paths may lie below; absolute. One that does not exist (yet)
	// allows nothing until it does.
	Roots []string
	// ImageDir is where relative image paths are looked up, and a root of its
	// own for images; may be empty.
	ImageDir string
	// Denied folders are refused even below a root: the daemon's own.
	Denied []string
}

// New makes a Policy.
func New(o Options) (*Policy, error) {
	for _, dir := range slices.Concat(o.Roots, o.Denied, []string{o.ImageDir}) {
		if dir != "" && !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("host path root %q: %w: it must be absolute", dir, ErrInvalid)
		}
	}
	return &Policy{
		roots:    slices.Clone(o.Roots),
		denied:   slices.Clone(o.Denied),
		imageDir: o.ImageDir,
	}, nil
}

// File resolves the path of an image: absolute, or relative to ImageDir. It
// must be a regular file.
func (p *Policy) File(path string) (string, error) {
	resolved, info, err := p.image(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s: %w: it is not a regular file", path, ErrInvalid)
	}
	return resolved, nil
}

// Layout resolves the path of a folder of images: absolute, or relative to
// ImageDir. It must be a directory.
func (p *Policy) Layout(path string) (string, error) {
	resolved, info, err := p.image(path)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s: %w: it is not a directory", path, ErrInvalid)
	}
	return resolved, nil
}

func (p *Policy) image(path string) (string, fs.FileInfo, error) {
	roots := p.roots
	if p.imageDir != "" {
		roots = append(slices.Clone(roots), p.imageDir)
		if !filepath.IsAbs(path) {
			path = p.imageDir + string(filepath.Separator) + path
		}
	}
	return p.resolve(path, roots)
}

// Dir resolves the path of a shared folder: an absolute path of a directory, in
// which no denied folder lies either.
func (p *Policy) Dir(path string) (string, error) {
	resolved, info, err := p.resolve(path, p.roots)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s: %w: it is not a directory", path, ErrInvalid)
	}
	for _, own := range p.denied {
		if belowAny(own, []string{resolved}) || belowAny(realPath(own), []string{resolved}) {
			return "", fmt.Errorf("%s: %w: a folder of the daemon itself lies in it", path, ErrForbidden)
		}
	}
	return resolved, nil
}

func (p *Policy) resolve(path string, roots []string) (string, fs.FileInfo, error) {
	switch {
	case !filepath.IsAbs(path):
		return "", nil, fmt.Errorf("%s: %w: it must be absolute", path, ErrInvalid)
	case !plain(path):
		return "", nil, fmt.Errorf("%q: %w: it contains a control character, or is not UTF-8", path, ErrInvalid)
	case slices.Contains(strings.Split(path, "/"), ".."):
		return "", nil, fmt.Errorf("%s: %w: it contains a .. element", path, ErrInvalid)
	}
	clean := filepath.Clean(path)
	resolved, err := filepath.EvalSymlinks(clean)
	if err != nil {
		return "", nil, p.unresolved(clean, roots, err)
	}
	if !belowAny(resolved, roots) || belowAny(resolved, p.denied) {
		return "", nil, p.forbidden(clean, resolved, roots)
	}
	if !plain(resolved) {
		return "", nil, fmt.Errorf("%s: %w: it leads to %q, which contains a control character, or is not UTF-8", clean, ErrInvalid, resolved)
	}
	info, err := os.Lstat(resolved)
	if err != nil {
		return "", nil, p.unresolved(clean, roots, err)
	}
	return resolved, info, nil
}

// plain tells whether a path reaches a hypervisor as it is. XML has no way to
// write what is not plain: it would come out as another path, which nobody has
// checked.
func plain(path string) bool {
	return utf8.ValidString(path) && !strings.ContainsFunc(path, func(r rune) bool {
		return unicode.IsControl(r) || r == 0xfffe || r == 0xffff
	})
}

// realPath resolves a path as far as it exists.
func realPath(path string) string {
	resolved, err := filepath.EvalSymlinks(path)
	if err == nil {
		return resolved
	}
	return filepath.Join(resolvedParent(filepath.Clean(path)), filepath.Base(path))
}

// unresolved explains a path that could not be followed. Of a path outside of
// the roots nothing is told; whoever may make symlinks below a root can find
// out whether what they lead to exists, and no more.
func (p *Policy) unresolved(clean string, roots []string, err error) error {
	if !belowAny(clean, roots) || belowAny(clean, p.denied) {
		return p.forbidden(clean, clean, roots)
	}
	if root, ok := missingRoot(clean, roots); ok {
		return fmt.Errorf("%s: %w: %s, which this daemon allows, does not exist: make it on the daemon's host", clean, ErrNotFound, root)
	}
	if parent := resolvedParent(clean); !belowAny(parent, roots) || belowAny(parent, p.denied) {
		return p.forbidden(clean, parent, roots)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w on the daemon's host: put it there, or correct the path", clean, ErrNotFound)
	}
	return fmt.Errorf("%s: %w: %v", clean, ErrInvalid, err)
}

// missingRoot finds a root of the path that does not exist itself. Not even a link is there,
// so that nothing is told of what lies elsewhere.
func missingRoot(clean string, roots []string) (string, bool) {
	for _, root := range roots {
		if !below(clean, filepath.Clean(root)) {
			continue
		}
		if _, err := os.Lstat(root); errors.Is(err, fs.ErrNotExist) {
			return root, true
		}
	}
	return "", false
}

// resolvedParent resolves the deepest part of a path that exists.
func resolvedParent(clean string) string {
	for dir := filepath.Dir(clean); ; dir = filepath.Dir(dir) {
		if resolved, err := filepath.EvalSymlinks(dir); err == nil || dir == "/" {
			return resolved
		}
	}
}

func (p *Policy) forbidden(clean, resolved string, roots []string) error {
	what := clean
	if resolved != clean && belowAny(clean, roots) && !belowAny(clean, p.denied) {
		what = clean + " leads to " + resolved + ", which"
	}
	switch {
	case belowAny(resolved, p.denied):
		return fmt.Errorf("%s: %w: it belongs to the daemon itself", clean, ErrForbidden)
	case len(roots) == 0:
		return fmt.Errorf("%s: %w: this daemon allows no host paths (allowedHostPaths in its configuration is empty)", clean, ErrForbidden)
	default:
		return fmt.Errorf("%s is not below an allowed root (%s): %w", what, strings.Join(roots, ", "), ErrForbidden)
	}
}

// belowAny tells whether path is one of the roots or below one, with the
// symlinks of the roots themselves resolved too.
func belowAny(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		if below(path, filepath.Clean(root)) {
			return true
		}
		resolved, err := filepath.EvalSymlinks(root)
		return err == nil && below(path, resolved)
	})
}

func below(path, root string) bool {
	return path == root || root == "/" || strings.HasPrefix(path, root+"/")
}
