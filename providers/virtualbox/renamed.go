package virtualbox

import (
	"os"
	"path/filepath"

	"sandboxd.dev/sandboxd/providers/internal/files"
)

// A machine's folder and its definition have the machine's name. VirtualBox renames
// both when somebody renames the machine, be it saved or off, and back again when it
// is given its own name.

// vmDir is VirtualBox's folder of a machine.
func (p *Provider) vmDir(r record) string {
	made := filepath.Join(p.data.MachineDir(r.ID), r.VM)
	if r.VM == "" || files.Exists(made) {
		return made
	}
	entries, _ := os.ReadDir(p.data.MachineDir(r.ID))
	for _, e := range entries {
		dir := filepath.Join(p.data.MachineDir(r.ID), e.Name())
		if e.IsDir() && onlyDefinition(dir) != "" {
			return dir
		}
	}
	return made
}

// definition is the file in which VirtualBox keeps a machine's settings.
func (p *Provider) definition(r record) string {
	dir := p.vmDir(r)
	made := filepath.Join(dir, r.VM+".vbox")
	if r.VM == "" || files.Exists(made) {
		return made
	}
	if moved := onlyDefinition(dir); moved != "" {
		return moved
	}
	return made
}

// onlyDefinition finds the definition in a folder that somebody has renamed: the one of
// the folder's name, or the only one. VirtualBox keeps others beside it, as they were
// before it needed another version of the format. Empty when there is none.
func onlyDefinition(dir string) string {
	if path := filepath.Join(dir, filepath.Base(dir)+".vbox"); files.Exists(path) {
		return path
	}
	entries, _ := os.ReadDir(dir)
	found := ""
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".vbox" || !e.Type().IsRegular() {
			continue
		}
		if found != "" {
			return ""
		}
		found = filepath.Join(dir, e.Name())
	}
	return found
}
