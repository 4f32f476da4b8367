package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// hashtreeCmd prints what is in a folder: of everything below it the name, the mode,
// the time and a hash of the content. Whatever writes there changes it.
//
//	hashtree FOLDER
func hashtreeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hashtree FOLDER")
	}
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var content []byte
		if info.Mode().IsRegular() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(ts.Stdout(), "%s %v %d %x\n", path, info.Mode(), info.ModTime().UnixNano(), sha256.Sum256(content))
		return err
	}))
}
