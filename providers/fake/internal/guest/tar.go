package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"syscall"
)

// tarProgram knows `tar -cf FILE [-C DIR] PATH…` and `tar -xf FILE [-C DIR]`, where
// - as FILE is the standard stream. There are no links in a simulated guest, so
// it unpacks none.
func tarProgram(c call) int {
	o, err := parseTar(c.Args[1:])
	if err != nil {
		return c.fail("%v", err)
	}
	o.dir = c.path(o.dir)
	if o.create {
		err = c.pack(o)
	} else {
		err = c.unpack(o)
	}
	if errors.Is(err, io.ErrClosedPipe) {
		return 128 + int(sigpipe)
	}
	if err != nil {
		c.fail("%v", err)
		return 2
	}
	return 0
}

type tarOptions struct {
	create    bool
	file, dir string
	paths     []string
}

func parseTar(args []string) (o tarOptions, err error) {
	usage := errors.New("usage: tar -cf FILE [-C DIR] PATH… | tar -xf FILE [-C DIR]")
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "--no-same-") })
	if len(args) < 2 {
		return o, usage
	}
	o.dir = "."
	letters := strings.TrimPrefix(args[0], "-")
	if strings.Trim(letters, "cxfmpv") != "" || !strings.HasSuffix(letters, "f") || strings.Contains(letters, "c") == strings.Contains(letters, "x") {
		return o, usage
	}
	o.create, o.file = strings.Contains(letters, "c"), args[1]
	for args = args[2:]; len(args) > 0; args = args[1:] {
		switch {
		case args[0] == "-C" && len(args) > 1:
			o.dir = args[1]
			args = args[1:]
		case args[0] == "--":
		default:
			o.paths = append(o.paths, args[0])
		}
	}
	if o.create == (len(o.paths) == 0) {
		return o, usage
	}
	return o, nil
}

func (c call) pack(o tarOptions) error {
	var b bytes.Buffer
	to := c.Out
	if o.file != "-" {
		to = &b
	}
	w := tar.NewWriter(to)
	for _, p := range o.paths {
		name := strings.TrimPrefix(p, "/")
		if err := c.packOne(w, absolute(o.dir, p), name); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if o.file == "-" {
		return nil
	}
	return c.process.sys.WriteFile(c.path(o.file), fileMode, b.Bytes())
}

// packOne packs a file, or a directory with what is in it.
func (c call) packOne(w *tar.Writer, at, name string) error {
	info, err := c.process.sys.Stat(at)
	if err != nil {
		return err
	}
	if info.Dir {
		return c.packDir(w, at, name)
	}
	r, info, err := c.process.sys.openFile(at)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode), Size: info.Size}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.CopyN(w, r, info.Size)
	return err
}

func (c call) packDir(w *tar.Writer, at, name string) error {
	f, in := c.process.sys.resolve(at)
	names, err := f.list(in)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimSuffix(name, "/") + "/", Mode: dirMode}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	for _, n := range names {
		n = strings.TrimSuffix(n, "/")
		if err := c.packOne(w, path.Join(at, n), strings.TrimSuffix(name, "/")+"/"+n); err != nil && !errors.Is(err, syscall.ENOENT) {
			return err
		}
	}
	return nil
}

func (c call) unpack(o tarOptions) error {
	from := c.In
	if o.file != "-" {
		raw, _, err := c.process.sys.ReadFile(c.path(o.file))
		if err != nil {
			return err
		}
		from = bytes.NewReader(raw)
	}
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, from) // whoever sends must be able to end
			return err
		}
		if err != nil {
			return err
		}
		name := path.Join(o.dir, path.Join("/", h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = c.process.sys.mkdirAll(name)
		case tar.TypeReg:
			if err = c.process.sys.mkdirAll(path.Dir(name)); err == nil {
				err = c.unpackFile(name, uint32(h.Mode&0o777), r)
			}
		default:
			err = errors.New("links are not supported")
		}
		if err != nil {
			return err
		}
	}
}

// unpackFile writes a file piece by piece.
func (c call) unpackFile(name string, mode uint32, r io.Reader) error {
	f, in := c.process.sys.resolve(name)
	if err := f.write(in, mode, nil); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := f.extend(in, buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}
