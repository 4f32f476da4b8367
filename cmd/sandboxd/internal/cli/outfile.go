package cli

import (
	"fmt"
	"os"
	"path/filepath"
)

// outputFile is the file that is written for a path: the one that its links lead to. Files are
// renamed to it once they are whole, so that what a file must not take the place of, such as a
// device, is refused before anything is done.
func outputFile(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return path, nil // there is none; anything else is told when it is written
	case info.IsDir():
		return "", fmt.Errorf("%s: it is a directory: name a file in it", path)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s: it is no regular file: name another one, or - for standard output", path)
	}
	return filepath.EvalSymlinks(path)
}
