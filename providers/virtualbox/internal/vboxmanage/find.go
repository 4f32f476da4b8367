package vboxmanage

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Default is the program that is looked for when none is named.
const Default = "VBoxManage"

// places are where VirtualBox's packages put the real program. The one in PATH
// is often a shell script around it that prints warnings among the output and
// clears away the sockets of a running VBoxSVC.
var places = []string{
	"/usr/lib/virtualbox", "/usr/lib64/virtualbox", "/opt/VirtualBox",
	"/Applications/VirtualBox.app/Contents/MacOS",
}

// Find returns the path of VBoxManage: a path as it is, the default name where
// packages put the real program, then whatever PATH has of that name.
func Find(program string) (string, error) {
	return find(program, places)
}

func find(program string, places []string) (string, error) {
	if program == "" {
		program = Default
	}
	if !strings.Contains(program, "/") {
		for _, dir := range places {
			if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
				return path, nil
			}
		}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("VBoxManage was not found as %q: install VirtualBox 7.0 or newer, or set virtualbox.manage (VBOX_MANAGE_PATH) to its path", program)
	}
	return filepath.Abs(path)
}
