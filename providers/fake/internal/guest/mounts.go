package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// devices are the files of /dev. What is written to them goes where a kernel
// sends it.
type devices struct{ console io.Writer }

func (d devices) stat(name string) (Info, error) {
	switch name {
	case "/":
		return Info{Dir: true, Mode: dirMode}, nil
	case "/null", "/zero", "/console", "/ttyS0":
		return Info{Device: true, Mode: 0o666}, nil
	}
	return Info{}, syscall.ENOENT
}

// zeros is what one read of /dev/zero gives.
const zeros = 64 << 10

func (d devices) read(name string) ([]byte, error) {
	if info, err := d.stat(name); err != nil {
		return nil, err
	} else if info.Dir {
		return nil, syscall.EISDIR
	}
	if name == "/zero" {
		return make([]byte, zeros), nil
	}
	return nil, nil
}

func (d devices) write(name string, _ uint32, data []byte) error { return d.extend(name, data) }

func (d devices) extend(name string, data []byte) error {
	info, err := d.stat(name)
	switch {
	case err != nil:
		return syscall.EROFS
	case info.Dir:
		return syscall.EISDIR
	case name == "/console" || name == "/ttyS0":
		_, err = d.console.Write(data)
	}
	return err
}

func (devices) mkdir(string) error         { return syscall.EROFS }
func (devices) remove(string) error        { return syscall.EROFS }
func (devices) chmod(string, uint32) error { return syscall.EROFS }
func (devices) list(string) ([]string, error) {
	return []string{"console", "null", "ttyS0", "zero"}, nil
}

// generated are files whose content is made up when they are read, as in /proc
// and /sys.
type generated map[string]func() string

func (g generated) stat(name string) (Info, error) {
	if _, ok := g[name]; ok {
		return Info{Mode: 0o444}, nil
	}
	for file := range g {
		if name == "/" || strings.HasPrefix(file, name+"/") {
			return Info{Dir: true, Mode: 0o555}, nil
		}
	}
	return Info{}, syscall.ENOENT
}

func (g generated) read(name string) ([]byte, error) {
	if f, ok := g[name]; ok {
		return []byte(f()), nil
	}
	if _, err := g.stat(name); err != nil {
		return nil, err
	}
	return nil, syscall.EISDIR
}

func (generated) write(string, uint32, []byte) error { return syscall.EROFS }
func (generated) extend(string, []byte) error        { return syscall.EROFS }
func (generated) mkdir(string) error                 { return syscall.EROFS }
func (generated) remove(string) error                { return syscall.EROFS }
func (generated) chmod(string, uint32) error         { return syscall.EROFS }

func (g generated) list(name string) ([]string, error) {
	prefix := strings.TrimSuffix(name, "/") + "/"
	seen := map[string]bool{}
	for file := range g {
		if rest, ok := strings.CutPrefix(file, prefix); ok {
			first, _, _ := strings.Cut(rest, "/")
			seen[first] = true
		}
	}
	return sortedKeys(seen), nil
}

// maxHostFile bounds what is read of one file of the host, in bytes.
const maxHostFile = 64 << 20

// hostFolder is a directory of the real host. Nothing outside it can be
// reached, symbolic links included.
type hostFolder struct {
	path     string
	readOnly bool
}

// at runs f on the directory. name becomes relative to it.
func (h hostFolder) at(name string, f func(r *os.Root, name string) error) error {
	r, err := os.OpenRoot(h.path)
	if err != nil {
		return errno(err)
	}
	defer func() { _ = r.Close() }()
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		name = "."
	}
	return errno(f(r, name))
}

// change is at for what writes.
func (h hostFolder) change(name string, f func(r *os.Root, name string) error) error {
	if h.readOnly {
		return syscall.EROFS
	}
	return h.at(name, f)
}

// errno reduces an error to what a kernel would have said.
func errno(err error) error {
	var n syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.As(err, &n):
		return n
	}
	return syscall.EACCES // such as a link that leads out of the folder
}

func (h hostFolder) stat(name string) (info Info, err error) {
	err = h.at(name, func(r *os.Root, name string) error {
		i, err := r.Stat(name)
		if err == nil {
			info = Info{
				Size: i.Size(), Mode: uint32(i.Mode().Perm()), Dir: i.IsDir(),
				Device: !i.IsDir() && !i.Mode().IsRegular(),
			}
		}
		return err
	})
	return info, err
}

func (h hostFolder) read(name string) ([]byte, error) {
	f, info, err := h.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info.Size > maxHostFile {
		return nil, syscall.EFBIG
	}
	data, err := io.ReadAll(io.LimitReader(f, maxHostFile))
	return data, errno(err)
}

// open opens a regular file for reading.
func (h hostFolder) open(name string) (file *os.File, info Info, err error) {
	err = h.at(name, func(r *os.Root, name string) error {
		// Without blocking, because the file may be a pipe.
		f, err := r.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		i, err := f.Stat()
		switch {
		case err != nil:
		case i.IsDir():
			err = syscall.EISDIR
		case !i.Mode().IsRegular():
			err = syscall.EACCES
		default:
			file, info = f, Info{Size: i.Size(), Mode: uint32(i.Mode().Perm())}
			return nil
		}
		_ = f.Close()
		return err
	})
	return file, info, err
}

func (h hostFolder) write(name string, mode uint32, data []byte) error {
	return h.put(name, os.O_TRUNC, mode, data)
}

func (h hostFolder) extend(name string, data []byte) error {
	return h.put(name, os.O_APPEND, keepMode, data)
}

func (h hostFolder) put(name string, flag int, mode uint32, data []byte) error {
	return h.change(name, func(r *os.Root, name string) error {
		f, err := r.OpenFile(name, os.O_WRONLY|os.O_CREATE|syscall.O_NONBLOCK|flag, fileMode)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		if mode != keepMode {
			err = errors.Join(err, f.Chmod(fs.FileMode(mode)))
		}
		return errors.Join(err, f.Close())
	})
}

func (h hostFolder) mkdir(name string) error {
	return h.change(name, func(r *os.Root, name string) error { return r.Mkdir(name, dirMode) })
}

func (h hostFolder) remove(name string) error {
	return h.change(name, func(r *os.Root, name string) error { return r.RemoveAll(name) })
}

func (h hostFolder) chmod(name string, mode uint32) error {
	return h.change(name, func(r *os.Root, name string) error {
		return r.Chmod(name, fs.FileMode(mode))
	})
}

func (h hostFolder) list(name string) (names []string, err error) {
	err = h.at(name, func(r *os.Root, name string) error {
		entries, err := fs.ReadDir(r.FS(), name)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return err
	})
	return names, err
}

// describe is a line of the mount table.
func (h hostFolder) describe(at string) string {
	mode := "rw"
	if h.readOnly {
		mode = "ro"
	}
	return fmt.Sprintf("host %s 9p %s 0 0\n", at, mode)
}
