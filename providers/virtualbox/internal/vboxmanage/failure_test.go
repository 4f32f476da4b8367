package vboxmanage

import (
	"errors"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/providers"
)

// TestFailures reads what VBoxManage 7.2.22 was seen to print.
func TestFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		exit      int
		stderr    string
		kind      error
		momentary bool
		says      string
	}{
		"no such machine": {1, `VBoxManage: error: Could not find a registered machine named 'lk'
VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component VirtualBoxWrap, interface IVirtualBox, callee nsISupports
VBoxManage: error: Context: "FindMachine(Bstr(VMNameOrUuid).raw(), machine.asOutParam())" at line 3248 of file VBoxManageInfo.cpp
`, providers.ErrNotFound, false, "VBoxManage startvm: Could not find a registered machine named 'lk' (0x80bb0001)"},
		"locked": {1, `VBoxManage: error: The machine 'a' is already locked for a session (or being unlocked)
VBoxManage: error: Details: code VBOX_E_INVALID_OBJECT_STATE (0x80bb0007), component MachineWrap, interface IMachine, callee nsISupports
`, providers.ErrBusy, true, "already locked"},
		"UUID exists": {1, `VBoxManage: error: Registered machine with UUID {aaaaaaaa-2222-4333-8444-555555555555} ('/a.vbox') already exists
VBoxManage: error: Details: code NS_ERROR_INVALID_ARG (0x80070057), component VirtualBoxWrap, interface IVirtualBox, callee nsISupports
`, providers.ErrInvalid, false, "already exists"},
		"medium has children": {1, `VBoxManage: error: Cannot close medium '/disk.vdi' because it has 2 child media
VBoxManage: error: Details: code VBOX_E_OBJECT_IN_USE (0x80bb000c), component MediumWrap, interface IMedium
`, providers.ErrBusy, false, "2 child media"},
		"disk full": {1, `0%...
Progress state: VBOX_E_FILE_ERROR
VBoxManage: error: Failed to create medium
VBoxManage: error: Could not create the medium storage unit '/x.vdi' (VERR_DISK_FULL)
VBoxManage: error: Details: code VBOX_E_FILE_ERROR (0x80bb0004), component MediumWrap, interface IMedium
`, providers.ErrCapacity, false, "Failed to create medium: Could not create"},
		"not running": {1, "VBoxManage: error: Machine 'x' is not currently running.\n", providers.ErrUnavailable, false, "is not currently running"},
		"no VBoxSVC": {1, `VBoxManage: error: Failed to create the VirtualBox object!
VBoxManage: error: Code NS_ERROR_FAILURE (0x80004005) - Operation failed (extended info not available)
VBoxManage: error: Most likely, the VirtualBox COM server is not running or failed to start.
`, providers.ErrUnavailable, true, "Failed to create the VirtualBox object!"},
		"VBoxSVC lost": {1, `Waiting for VM "x" to power on...
VBoxManage: error: Code NS_ERROR_ABORT (0x80004004) - Operation aborted (extended info not available)
`, providers.ErrUnavailable, false, "VBoxSVC, ended during VBoxManage startvm: Code NS_ERROR_ABORT"},
		"unknown option":   {2, "VBoxManage: error: Unknown option: --help\n", providers.ErrUnsupported, false, "Unknown option"},
		"nothing said":     {9, "", providers.ErrUnavailable, false, "ended with exit code 9"},
		"terminal escapes": {1, "VBoxManage: error: Machine '\x1b[31m\x07' is odd\n", providers.ErrUnavailable, false, "Machine ' [31m ' is odd"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFailure([]string{"startvm", "x"}, tc.exit, []byte(tc.stderr))
			if f.Kind() != tc.kind || f.momentary() != tc.momentary || !strings.Contains(f.Error(), tc.says) {
				t.Errorf("got %v, momentary %v, %q", f.Kind(), f.momentary(), f.Error())
			}
			if strings.ContainsAny(f.Error(), "\n\x1b") || len(f.Error()) > 1100 {
				t.Errorf("the message is not one printable line: %q", f.Error())
			}
			if !errors.Is(providers.Errorf(f.Kind(), "x", "%w", f), tc.kind) {
				t.Error("the kind is lost")
			}
		})
	}
}
