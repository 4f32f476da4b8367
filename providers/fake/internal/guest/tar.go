package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"strings"
	"syscall"
)

// tarProgram knows `tar -cf FILE -C DIR .` and `tar -xf FILE -C DIR`. There are
// no links in a simulated guest, so it unpacks none.
func tarProgram(c call) int {
	args := c.Args[1:]
	var err error
	switch {
	case len(args) == 5 && args[0] == "-cf" && args[2] == "-C" && args[4] == ".":
		err = c.pack(c.path(args[1]), c.path(args[3]))
	case len(args) == 4 && args[0] == "-xf" && args[2] == "-C":
		err = c.unpack(c.path(args[1]), c.path(args[3]))
	default:
		return c.fail("usage: tar -cf FILE -C DIR . | tar -xf FILE -C DIR")
	}
	if err != nil {
		return c.fail("%v", err)
	}
	return 0
}

func (c call) pack(file, dir string) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := c.packDir(w, dir, "."); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return c.process.sys.WriteFile(file, 0o644, b.Bytes())
}

func (c call) packDir(w *tar.Writer, dir, below string) error {
	f, in := c.process.sys.resolve(path.Join(dir, below))
	names, err := f.list(in)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeDir, Name: "./" + below + "/", Mode: 0o755}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	for _, n := range names {
		name := path.Join(below, strings.TrimSuffix(n, "/"))
		info, err := c.process.sys.Stat(path.Join(dir, name))
		switch {
		case errors.Is(err, syscall.ENOENT):
			continue
		case err != nil:
			return err
		case info.Dir:
			if err := c.packDir(w, dir, name); err != nil {
				return err
			}
			continue
		}
		data, _, err := c.process.sys.ReadFile(path.Join(dir, name))
		if err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Mode: int64(info.Mode), Size: int64(len(data))}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}

func (c call) unpack(file, dir string) error {
	raw, _, err := c.process.sys.ReadFile(file)
	if err != nil {
		return err
	}
	r := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Join(dir, path.Join("/", h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = c.process.sys.mkdirAll(name)
		case tar.TypeReg:
			var data []byte
			if data, err = io.ReadAll(io.LimitReader(r, maxHostFile)); err != nil {
				return err
			}
			if err = c.process.sys.mkdirAll(path.Dir(name)); err == nil {
				err = c.process.sys.WriteFile(name, uint32(h.Mode&0o777), data)
			}
		default:
			err = errors.New("links are not supported")
		}
		if err != nil {
			return err
		}
	}
}
