package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"syscall"

	"sandboxd.dev/sandboxd/providers/fake/internal/shell"
)

// lookupFileProgram returns the program of a name that changes files, or nil.
func lookupFileProgram(name string) program {
	switch name {
	case "ls":
		return ls
	case "mkdir":
		return mkdir
	case "rm":
		return rm
	case "touch":
		return touch
	case "tar":
		return tarProgram
	case "chmod":
		return chmod
	case "mount":
		return func(c call) int {
			data, _, _ := c.process.sys.ReadFile("/proc/mounts")
			return c.print(string(data))
		}
	}
	return nil
}

// Open implements shell.Host.
func (p *process) Open(dir, name string, mode shell.OpenMode) (io.ReadWriteCloser, error) {
	f, in := p.sys.resolve(absolute(dir, name))
	switch mode {
	case shell.OpenRead:
		if h, ok := f.(hostFolder); ok {
			r, _, err := h.open(in)
			return r, err
		}
		data, err := f.read(in)
		return &openFile{Reader: bytes.NewReader(data)}, err
	case shell.OpenTruncate:
		if err := f.write(in, keepMode, nil); err != nil {
			return nil, err
		}
	case shell.OpenAppend:
		if err := f.extend(in, nil); err != nil {
			return nil, err
		}
	}
	return &openFile{
		Reader: bytes.NewReader(nil),
		extend: func(b []byte) error { return f.extend(in, b) },
	}, nil
}

// openFile is open for reading or, where extend is set, for writing.
type openFile struct {
	*bytes.Reader
	extend func([]byte) error
}

// Write implements io.Writer.
func (f *openFile) Write(b []byte) (int, error) {
	if f.extend == nil {
		return 0, syscall.EBADF
	}
	if err := f.extend(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements io.Closer.
func (f *openFile) Close() error { return nil }

// Enter implements shell.Host.
func (p *process) Enter(dir, name string) (string, error) {
	to := absolute(dir, name)
	info, err := p.sys.Stat(to)
	if err == nil && !info.Dir {
		err = syscall.ENOTDIR
	}
	return to, err
}

func ls(c call) int {
	args := c.Args[1:]
	if len(args) > 0 && args[0] == "-A" {
		args = args[1:] // hidden files are always listed
	}
	if len(args) == 0 {
		args = []string{c.Dir}
	}
	code := 0
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			return c.fail("option %s is not supported", a)
		}
		f, in := c.process.sys.resolve(c.path(a))
		names, err := f.list(in)
		if errors.Is(err, syscall.ENOTDIR) {
			names, err = []string{a}, nil
		}
		if err != nil {
			code = c.fail("%s: %v", a, err)
			continue
		}
		for _, n := range names {
			if failed := c.print(n + "\n"); failed != 0 {
				return failed
			}
		}
	}
	return code
}

// each runs f for every argument that is no option, and tells which options
// there are as one word of letters.
func (c call) each(f func(name, options string) error) int {
	options, code, names := "", 0, 0
	for _, a := range c.Args[1:] {
		if o, ok := strings.CutPrefix(a, "-"); ok && o != "" {
			options += o
			continue
		}
		names++
		if err := f(c.path(a), options); err != nil {
			code = c.fail("%s: %v", a, err)
		}
	}
	if names == 0 {
		return c.fail("nothing named")
	}
	return code
}

func mkdir(c call) int {
	return c.each(func(name, options string) error {
		switch options {
		case "p":
			return c.process.sys.mkdirAll(name)
		case "":
			f, in := c.process.sys.resolve(name)
			return f.mkdir(in)
		}
		return fmt.Errorf("option -%s is not supported", options)
	})
}

func rm(c call) int {
	return c.each(func(name, options string) error {
		f, in := c.process.sys.resolve(name)
		info, err := f.stat(in)
		switch {
		case errors.Is(err, syscall.ENOENT) && strings.Contains(options, "f"):
			return nil
		case err != nil:
			return err
		case info.Dir && !strings.Contains(options, "r"):
			return syscall.EISDIR
		}
		return f.remove(in)
	})
}

func touch(c call) int {
	return c.each(func(name, _ string) error {
		f, in := c.process.sys.resolve(name)
		return f.extend(in, nil)
	})
}

func chmod(c call) int {
	if len(c.Args) < 3 {
		return c.fail("usage: chmod MODE FILE…")
	}
	mode, err := strconv.ParseUint(c.Args[1], 8, 12)
	if err != nil || mode > 0o777 {
		return c.fail("bad mode %q: it is not an octal number up to 777", c.Args[1])
	}
	c.Args = append([]string{c.Args[0]}, c.Args[2:]...)
	return c.each(func(name, _ string) error {
		f, in := c.process.sys.resolve(name)
		return f.chmod(in, uint32(mode))
	})
}

// test knows -e, -f, -d, -x, -s, -t, -n and -z, =, !=, -eq and -ne, and ! in front.
func test(c call) int {
	args := c.Args[1:]
	if c.Args[0] == "[" {
		if len(args) == 0 || args[len(args)-1] != "]" {
			c.fail("missing ]")
			return shell.ExitSyntax
		}
		args = args[:len(args)-1]
	}
	negate := len(args) > 1 && args[0] == "!"
	if negate {
		args = args[1:]
	}
	ok, err := c.test(args)
	if err != nil {
		c.fail("%v", err)
		return shell.ExitSyntax
	}
	if ok != negate {
		return 0
	}
	return 1
}

func (c call) test(args []string) (bool, error) {
	switch len(args) {
	case 0:
		return false, nil
	case 1:
		return args[0] != "", nil
	case 2:
		return c.testOne(args[0], args[1])
	case 3:
		switch args[1] {
		case "=":
			return args[0] == args[2], nil
		case "!=":
			return args[0] != args[2], nil
		case "-eq", "-ne":
			a, err := strconv.Atoi(args[0])
			b, err2 := strconv.Atoi(args[2])
			return (a == b) == (args[1] == "-eq"), errors.Join(err, err2)
		}
	}
	return false, fmt.Errorf("%q is not supported", strings.Join(args, " "))
}

func (c call) testOne(op, arg string) (bool, error) {
	if op == "-n" || op == "-z" {
		return (arg == "") == (op == "-z"), nil
	}
	if op == "-t" {
		return c.terminal() != nil, nil
	}
	name := c.path(arg)
	info, err := c.process.sys.Stat(name)
	if err != nil && isProgramDir(path.Dir(name)) && lookup(path.Base(name)) != nil {
		info, err = Info{Mode: 0o755}, nil
	}
	switch op {
	case "-e":
		return err == nil, nil
	case "-f":
		return err == nil && !info.Dir && !info.Device, nil
	case "-d":
		return err == nil && info.Dir, nil
	case "-s":
		return err == nil && info.Size > 0, nil
	case "-x":
		return err == nil && info.Mode&0o111 != 0, nil
	}
	return false, fmt.Errorf("%s is not supported", op)
}
