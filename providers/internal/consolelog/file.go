package consolelog

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// file is one file of a log.
type file struct {
	*os.File
	info os.FileInfo // when it was opened
	at   int64       // what is read next
	end  int64       // of what is read; negative for one that may grow
}

// openFile opens a file; nil where there is none.
func openFile(path string) (*file, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &file{File: f, info: info, end: -1}, nil
}

// read reads on. What was freed before or while it was read is passed over: that reads
// as zeros.
func (f *file) read(b []byte) (int, error) {
	for {
		part := b
		if f.end >= 0 {
			part = b[:max(0, min(int64(len(b)), f.end-f.at))]
		}
		n, err := f.ReadAt(part, f.at)
		switch {
		case len(part) == 0:
			return 0, io.EOF
		case n == 0:
			return 0, err
		case part[0] == 0:
			if data := dataFrom(f.File, f.at); data > f.at {
				f.at = data
				continue
			}
		}
		f.at += int64(n)
		return n, nil
	}
}

// Extent is where the data of a file begins, after a hole, and ends.
func Extent(f *os.File) (begin, end int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	var first [1]byte
	if n, err := f.ReadAt(first[:], 0); n == 0 && !errors.Is(err, io.EOF) {
		return 0, 0, err
	}
	if first[0] != 0 {
		return 0, info.Size(), nil
	}
	return min(dataFrom(f, 0), info.Size()), info.Size(), nil
}

// dataFrom is where the data of a file goes on, where its zeros may be a hole. It is
// asked about zeros only: not every file system tells of what was just written.
func dataFrom(f *os.File, at int64) int64 {
	data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case err == nil:
		return data
	case errors.Is(err, unix.ENXIO): // there is nothing but the hole
		if info, err := f.Stat(); err == nil {
			return max(at, info.Size())
		}
	}
	return at
}
