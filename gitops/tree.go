package gitops

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"sandboxd.dev/sandboxd/manifest"
)

// Limits of what is read, besides those of a file (package manifest).
const (
	maxFiles   = 10_000
	maxBytes   = 64 << 20
	maxEntries = 100_000
	// looks is how often a directory that keeps changing is looked at in one round.
	looks = 6
)

// File is one file of a directory, or a folder of it that cannot be read.
type File struct {
	// Path below the directory.
	Path    string
	Objects []manifest.Object
	// Err says why its objects are not known.
	Err error
}

// Snapshot is what a directory held at one moment.
type Snapshot struct {
	// Files in the order of their paths.
	Files []File
	// Notes say what was passed over.
	Notes []string
	// Revision of the git checkout, if it is in one.
	Revision string
	// Digest of all that is in the files.
	Digest string
}

// Objects counts them.
func (s Snapshot) Objects() int {
	n := 0
	for _, f := range s.Files {
		n += len(f.Objects)
	}
	return n
}

// Tree reads a directory. It is used by one goroutine.
type Tree struct {
	dir string
	// settle is the pause between the two looks that must agree.
	settle time.Duration
	// most is how many bytes are read.
	most int64
	// last is what was read last, so that what stays as it is is read once only.
	last *Snapshot
	// known are the files of the last look.
	known map[string]known
}

// known is a file that was read, and by what a change of it is seen.
type known struct {
	stamp stamp
	file  File
	sum   [sha256.Size]byte
	note  string
}

// stamp changes with a file.
type stamp struct {
	size, modified, changed int64
	inode                   uint64
}

// NewTree makes a Tree. The directory need not exist yet.
func NewTree(dir string, settle time.Duration) *Tree {
	return &Tree{dir: dir, settle: settle, most: maxBytes}
}

// errBusy: what is there now is not what will be there in a moment.
var errBusy = errors.New("it is being changed")

// Look reads the directory. What differs from the last time is read until it is the
// same twice, so that no file is taken that is half written, and no half of a
// checkout. An error means that nothing is known of the directory now.
func (t *Tree) Look(ctx context.Context) (Snapshot, error) {
	before := t.last
	for i := range looks {
		if i > 0 {
			if err := pause(ctx, t.settle); err != nil {
				return Snapshot{}, err
			}
		}
		now, err := t.read()
		switch {
		case err == nil && before != nil && before.Digest == now.Digest && before.Revision == now.Revision:
			t.last = &now
			return now, nil
		case err == nil:
			before = &now
		case i == looks-1 || !errors.Is(err, errBusy):
			return Snapshot{}, err
		default:
			before = nil
		}
	}
	return Snapshot{}, fmt.Errorf("%s: it did not stay the same for %v: %w", t.dir, t.settle, errBusy)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read reads the directory once.
func (t *Tree) read() (Snapshot, error) {
	// The link that git-sync swaps is followed once, so that all files are of one
	// side of a swap.
	resolved, err := filepath.EvalSymlinks(t.dir)
	if err != nil {
		return Snapshot{}, fmt.Errorf("%s: the directory cannot be read: %w", t.dir, cause(err))
	}
	git := lookAtCheckout(resolved)
	if git.busy != "" {
		return Snapshot{}, fmt.Errorf("%s: %s: %w", t.dir, git.busy, errBusy)
	}
	root, err := os.OpenRoot(resolved)
	if err != nil {
		return Snapshot{}, fmt.Errorf("%s: the directory cannot be read: %w", t.dir, cause(err))
	}
	defer func() { _ = root.Close() }()
	w := walk{dir: t.dir, root: root, most: t.most, before: t.known, known: map[string]known{}}
	if err := fs.WalkDir(root.FS(), ".", w.visit); err != nil {
		return Snapshot{}, err
	}
	t.known = w.known
	w.snapshot.Revision = git.revision
	w.snapshot.Digest = w.digest()
	return w.snapshot, nil
}

// walk is one walk through a directory.
type walk struct {
	dir            string
	root           *os.Root
	before, known  map[string]known
	snapshot       Snapshot
	entries, bytes int64
	most           int64
	objects        int
}

// visit implements fs.WalkDirFunc.
func (w *walk) visit(name string, entry fs.DirEntry, err error) error {
	if w.entries++; w.entries > maxEntries {
		return fmt.Errorf("%s: it holds more than %d files and folders: name a folder that holds manifests only", w.dir, maxEntries)
	}
	hidden := name != "." && strings.HasPrefix(path.Base(name), ".")
	switch {
	case err != nil && name == ".":
		return fmt.Errorf("%s: the directory cannot be read: %w", w.dir, cause(err))
	case err != nil:
		w.add(known{file: failed(name, "it cannot be read: %w", cause(err))})
		return fs.SkipDir
	case hidden && entry.IsDir():
		return fs.SkipDir
	case hidden || entry.IsDir():
		return nil
	case entry.Type()&fs.ModeSymlink != 0:
		if info, err := w.root.Stat(name); err == nil && info.IsDir() {
			w.note(name + ": a symbolic link to a folder is not followed")
			return nil
		}
	}
	if !slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(path.Ext(name))) {
		return nil
	}
	if base := path.Base(name); base == "kustomization.yaml" || base == "kustomization.yml" {
		w.note(name + ": kustomize is not supported: build what it describes where the directory is filled")
		return nil
	}
	return w.take(name)
}

// take reads a file, unless it is as it was.
func (w *walk) take(name string) error {
	if len(w.snapshot.Files) >= maxFiles {
		return fmt.Errorf("%s: it holds more than %d manifests: spread them over several daemons, or put them into fewer files", w.dir, maxFiles)
	}
	k, err := w.load(name)
	if err != nil {
		return err
	}
	w.add(k)
	if w.objects += len(k.file.Objects); w.objects > manifest.MaxObjects {
		return fmt.Errorf("%s: it holds more than %d objects", w.dir, manifest.MaxObjects)
	}
	return nil
}

// load reads a file. Its error is about the directory; what is wrong with the file
// is in the file.
func (w *walk) load(name string) (known, error) {
	// Not to wait for a FIFO's other end.
	f, err := w.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return known{file: failed(name, "it cannot be read, or is a symbolic link that leads out of the directory: %w", cause(err))}, nil
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return known{file: failed(name, "it cannot be read: %w", cause(err))}, nil
	case !info.Mode().IsRegular():
		return known{file: failed(name, "it is no file (%s)", info.Mode().Type())}, nil
	case info.Size() > manifest.MaxFile:
		return known{file: failed(name, "it is larger than %d MiB: split it into several files", manifest.MaxFile>>20)}, nil
	}
	if w.bytes += info.Size(); w.bytes > w.most {
		return known{}, fmt.Errorf("%s: its manifests have more than %d bytes", w.dir, w.most)
	}
	k := known{stamp: stampOf(info)}
	if before, ok := w.before[name]; ok && before.stamp == k.stamp && k.stamp != (stamp{}) && k.stamp.old() {
		return before, nil
	}
	raw, err := io.ReadAll(io.LimitReader(f, manifest.MaxFile+1))
	if err != nil {
		return known{file: failed(name, "it cannot be read: %w", cause(err))}, nil
	}
	k.sum = sha256.Sum256(raw)
	k.file, k.note = parse(name, raw)
	return k, nil
}

func (w *walk) add(k known) {
	w.known[k.file.Path] = k
	w.snapshot.Files = append(w.snapshot.Files, k.file)
	if k.note != "" {
		w.note(k.note)
	}
}

// note keeps what was passed over, within reason.
func (w *walk) note(text string) {
	const most = 100
	if len(w.snapshot.Notes) < most {
		w.snapshot.Notes = append(w.snapshot.Notes, text)
	}
}

// digest is one of everything that was read.
func (w *walk) digest() string {
	h := sha256.New()
	for _, f := range w.snapshot.Files {
		k := w.known[f.Path]
		_, _ = fmt.Fprintf(h, "%q %x %v\n", f.Path, k.sum, f.Err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// racy is how long after a change a file may change again without another stamp.
const racy = 2 * time.Second

// old tells whether the file has not changed just now.
func (s stamp) old() bool { return time.Since(time.Unix(0, max(s.changed, s.modified))) > racy }

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.changed, s.inode = changed(st), st.Ino
	}
	return s
}

func failed(name, format string, args ...any) File {
	return File{Path: name, Err: fmt.Errorf("%s: "+format, append([]any{name}, args...)...)}
}

// parse makes objects of a file's content, or says why it cannot, or what was
// passed over.
func parse(name string, raw []byte) (File, string) {
	if len(raw) == 0 {
		return failed(name, "it is empty: was it only half written?"), ""
	}
	if line := conflict(raw); line > 0 {
		return failed(name, "line %d: git has left a conflict there that nobody has settled", line), ""
	}
	objects, err := manifest.Parse(name, raw)
	if err != nil {
		return File{Path: name, Err: err}, ""
	}
	note := ""
	objects = slices.DeleteFunc(objects, func(o manifest.Object) bool {
		foreign := o.GroupVersionKind().Group == kustomize
		if foreign {
			note = o.Source + ": kustomize is not supported: build what it describes where the directory is filled"
		}
		return foreign
	})
	for _, o := range objects {
		if err := place(o); err != nil {
			return File{Path: name, Err: err}, note
		}
	}
	return File{Path: name, Objects: objects}, note
}

// conflict finds the line at which git's marks of a conflict begin; 0 when there
// are none. They stand at the beginning of lines, where no YAML has them.
func conflict(raw []byte) int {
	begins, middle, n := 0, false, 0
	for line := range bytes.Lines(raw) {
		n++
		switch {
		case bytes.HasPrefix(line, []byte("<<<<<<< ")):
			begins, middle = n, false
		case begins > 0 && string(bytes.TrimSpace(line)) == "=======":
			middle = true
		case middle && bytes.HasPrefix(line, []byte(">>>>>>> ")):
			return begins
		}
	}
	return 0
}

// cause leaves out the path that an error of the file system repeats.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
