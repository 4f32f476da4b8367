// Package archive packs directories of the host into tar streams, and unpacks
// tar streams that come out of a guest.
//
//	directory ──Pack──▶ tar ──▶ guest
//	guest ──▶ tar ──Unpack──▶ directory
//
// What comes out of a guest is hostile. Unpack writes below one directory only,
// whatever names and links the archive has: os.Root sees to it that no path
// leads out, and a link that would point out is refused. It makes directories,
// regular files and symbolic links, never devices or other special files, owned
// by whoever unpacks, without set-user-ID bits, and within bounds of number,
// size and depth.
package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Limits of what Unpack takes.
type Limits struct {
	// Entries is the greatest number of files, directories and links, and again
	// of directories that only the paths of others name.
	Entries int
	// Bytes is the greatest size of all files together.
	Bytes int64
}

// DefaultLimits are generous for a working directory.
var DefaultLimits = Limits{Entries: 1 << 20, Bytes: 64 << 30}

const (
	// maxDepth bounds how deep directories lie in one another.
	maxDepth = 255
	// maxName is the longest path inside an archive, in bytes.
	maxName = 4096
)

// ErrRefused: the archive has something that is not unpacked.
var ErrRefused = errors.New("refused")

func refuse(name, format string, args ...any) error {
	return fmt.Errorf("archive entry %.200q: %w: %s", name, ErrRefused, fmt.Sprintf(format, args...))
}

// Pack writes the contents of a directory as a tar stream. Symbolic links are
// packed as links; sockets, pipes and devices are left out.
func Pack(ctx context.Context, dir string, w io.Writer) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	t := tar.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return packEntry(t, root, name, entry)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

func packEntry(t *tar.Writer, root *os.Root, name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since its directory was read
	}
	if err != nil {
		return err
	}
	link := ""
	switch mode := info.Mode(); {
	case mode.IsRegular(), mode.IsDir():
	case mode&fs.ModeSymlink != 0:
		if link, err = root.Readlink(name); err != nil {
			return err
		}
	default:
		return nil
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	// Who owns a file on the host is of no use in the guest.
	header.Name, header.Format = name, tar.FormatPAX
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	if info.IsDir() {
		header.Name += "/"
	}
	if !info.Mode().IsRegular() {
		return t.WriteHeader(header)
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := t.WriteHeader(header); err != nil {
		return err
	}
	// A file that grows meanwhile is packed as long as it was; one that shrinks
	// is an error.
	if _, err := io.CopyN(t, f, header.Size); err != nil {
		return fmt.Errorf("%s changed while it was read: %w", name, err)
	}
	return nil
}

// Unpack writes what a tar stream holds below a directory, which exists. Files
// that are there are replaced. On an error what was written before stays.
func Unpack(ctx context.Context, r io.Reader, dir string, limits Limits) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	u := &unpacker{root: root, left: limits.Bytes, dirsLeft: limits.Entries, modes: map[string]fs.FileMode{}, dirs: map[string]bool{".": true}}
	t := tar.NewReader(r)
	for count := 0; ; count++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := t.Next()
		if errors.Is(err, io.EOF) {
			return u.finish()
		}
		if err != nil {
			return fmt.Errorf("the archive cannot be read: %w", err)
		}
		if count >= limits.Entries {
			return refuse(header.Name, "the archive has more than %d entries", limits.Entries)
		}
		if err := u.entry(header, t); err != nil {
			return err
		}
	}
}

// unpacker writes entries below a root.
type unpacker struct {
	root *os.Root
	// left is how many bytes files may still have, and dirsLeft how many
	// directories may still be made: the path of one entry makes many.
	left     int64
	dirsLeft int
	// modes of directories are set at the end: one without write permission
	// must still be filled.
	modes map[string]fs.FileMode
	// dirs are paths that were seen to be directories, with no link on the way.
	// They stay so: nothing here replaces a directory.
	dirs map[string]bool
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode) & fs.ModePerm //nolint:gosec // masked
	if isSparse(h) {
		return refuse(h.Name, "it is kept sparsely, and a few bytes of an archive would fill a disk: compress the file in the guest, or pack it there with its holes (bsdtar --no-read-sparse)")
	}
	switch h.Typeflag {
	case tar.TypeDir:
		u.modes[name] = mode
		return u.makeDir(name)
	case tar.TypeReg:
		return u.file(name, mode, h.Size, body)
	case tar.TypeSymlink:
		return u.link(name, h.Linkname)
	case tar.TypeLink:
		return u.hardLink(name, h.Linkname)
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return refuse(h.Name, "it is neither a file nor a directory nor a link")
	}
}

// isSparse tells whether an entry has holes, which are not in the archive and would
// be written. GNU's tar makes such entries when it is asked to, bsdtar of every file
// that has holes unless it is told not to.
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// cleanName checks the name of an entry.
func cleanName(name string) (string, error) {
	switch {
	case name == "" || len(name) > maxName:
		return "", refuse(name, "its name is empty or longer than %d bytes", maxName)
	case path.IsAbs(name):
		return "", refuse(name, "its name is absolute")
	case strings.ContainsRune(name, 0):
		return "", refuse(name, "its name has a zero byte")
	}
	clean := path.Clean(name)
	if !filepath.IsLocal(clean) {
		return "", refuse(name, "its name leads out of the directory")
	}
	if strings.Count(clean, "/") >= maxDepth {
		return "", refuse(name, "it lies deeper than %d directories", maxDepth)
	}
	return clean, nil
}

// makeDir makes a directory and those above it. None may be a link: a link
// below it would then lie elsewhere than its name says.
func (u *unpacker) makeDir(name string) error {
	if u.dirs[name] {
		return nil
	}
	if err := u.makeDir(path.Dir(name)); err != nil {
		return err
	}
	switch info, err := u.root.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
		if u.dirsLeft--; u.dirsLeft < 0 {
			return refuse(name, "the archive has too many directories")
		}
		if err := u.root.Mkdir(name, 0o700); err != nil {
			return err
		}
		if _, ok := u.modes[name]; !ok {
			u.modes[name] = 0o755
		}
	case err != nil:
		return err
	case !info.IsDir():
		return refuse(name, "a file or a link is in the place of a directory")
	}
	u.dirs[name] = true
	return nil
}

// makeRoom prepares the place of a file or link: its directory exists and
// nothing is there but possibly a directory, which is left.
func (u *unpacker) makeRoom(name string) error {
	if err := u.makeDir(path.Dir(name)); err != nil {
		return err
	}
	info, err := u.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return refuse(name, "a directory is in its place")
	}
	return u.root.Remove(name)
}

func (u *unpacker) file(name string, mode fs.FileMode, size int64, body io.Reader) error {
	if size < 0 || size > u.left {
		return refuse(name, "the files of the archive are larger than allowed")
	}
	u.left -= size
	if err := u.makeRoom(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, body); err == nil {
		err = f.Chmod(mode)
	}
	return errors.Join(err, f.Close())
}

// link makes a symbolic link, if it stays below the root wherever it is read.
// Dots may only come first: there they lead up through directories, which
// makeRoom sees to; behind a name that is a link itself, they would lead up from
// wherever that one leads.
func (u *unpacker) link(name, target string) error {
	if target == "" || len(target) > maxName || path.IsAbs(target) ||
		!filepath.IsLocal(path.Join(path.Dir(name), target)) {
		return refuse(name, "it is a link that leads out of the directory")
	}
	down := false
	for step := range strings.SplitSeq(target, "/") {
		if step == ".." && down {
			return refuse(name, "it is a link that leads down and up again")
		}
		down = down || step != ".." && step != "." && step != ""
	}
	if err := u.makeRoom(name); err != nil {
		return err
	}
	return u.root.Symlink(target, name)
}

func (u *unpacker) hardLink(name, target string) error {
	target, err := cleanName(target)
	if err != nil {
		return err
	}
	if err := u.makeRoom(name); err != nil {
		return err
	}
	info, err := u.root.Lstat(target)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return refuse(name, "it is a hard link to something else than a file")
	}
	return u.root.Link(target, name)
}

// finish gives the directories their modes, the deepest first.
func (u *unpacker) finish() error {
	names := make([]string, 0, len(u.modes))
	for name := range u.modes {
		names = append(names, name)
	}
	sortDeepestFirst(names)
	for _, name := range names {
		if name == "." {
			continue // the directory was there before
		}
		if err := u.root.Chmod(name, u.modes[name]); err != nil {
			return err
		}
	}
	return nil
}
