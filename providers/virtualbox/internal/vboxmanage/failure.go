package vboxmanage

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"sandboxd.dev/sandboxd/providers"
)

// Code is a result code of VirtualBox's COM interface.
type Code uint32

// The codes that mean something here. They are documented with VirtualBox's
// main API; which call gives which was seen with 7.2.22.
const (
	CodeObjectNotFound    Code = 0x80bb0001
	CodeInvalidVMState    Code = 0x80bb0002
	CodeVM                Code = 0x80bb0003
	CodeFile              Code = 0x80bb0004
	CodeIPRT              Code = 0x80bb0005
	CodeInvalidObject     Code = 0x80bb0007
	CodeNotSupported      Code = 0x80bb0009
	CodeInvalidSession    Code = 0x80bb000b
	CodeObjectInUse       Code = 0x80bb000c
	CodePasswordIncorrect Code = 0x80bb000d
	CodeMaximumReached    Code = 0x80bb000e
	CodeGuestControl      Code = 0x80bb000f
	CodeInvalidArgument   Code = 0x80070057
	CodeAccessDenied      Code = 0x80070005
	CodeOutOfMemory       Code = 0x8007000e
	CodeNotImplemented    Code = 0x80004001
	CodeAborted           Code = 0x80004004
	CodeUnexpected        Code = 0x8000ffff
	CodeCallFailed        Code = 0x800706be
)

// usageExit is the exit code for arguments that VBoxManage does not know, and of
// some commands for everything.
const usageExit = 2

// Failure is a call that VBoxManage ended with an error.
type Failure struct {
	// Verb says what was called.
	Verb string
	// Exit code of the process; negative when a signal ended it.
	Exit int
	// Code of VirtualBox; 0 when it gave none.
	Code Code
	// Status is the IPRT status, such as VERR_DISK_FULL; empty when none is told.
	Status string
	// Message is what VBoxManage said, on one line.
	Message string
	// Unreached: VBoxSVC did not answer, so nothing was done.
	Unreached bool
	// Lost: VBoxSVC ended during the call, and nobody knows what was done.
	Lost bool
	// Cut: it ended with 0, and had not said all that it was asked.
	Cut bool

	looked bool // and changed nothing
}

var (
	codePattern   = regexp.MustCompile(`Details: code \S+ \((0x[0-9a-fA-F]{8})\)`)
	statusPattern = regexp.MustCompile(`\bVERR_[A-Z0-9_]+`)
)

// unreached is how VBoxManage begins when it finds no VBoxSVC; there is no code
// that tells it from other failures.
var unreached = []byte("VBoxManage: error: Failed to create the VirtualBox object!")

// lost is what VBoxManage says, and nothing else, when VBoxSVC ends during a call.
var lost = regexp.MustCompile(`VBoxManage: error: Code NS_ERROR_(ABORT|CALL_FAILED) \(`)

// newFailure reads what VBoxManage printed when it failed.
func newFailure(args []string, exit int, stderr []byte) *Failure {
	f := &Failure{Verb: verb(args), Exit: exit, looked: onlyLooks(args)}
	if m := codePattern.FindSubmatch(stderr); m != nil {
		n, _ := strconv.ParseUint(string(m[1]), 0, 32) // the pattern is a number
		f.Code = Code(n)
	}
	f.Status = string(statusPattern.Find(stderr))
	f.Unreached = bytes.Contains(stderr, unreached)
	f.Lost = !f.Unreached && f.Code == 0 && lost.Match(stderr)
	var said []string
	for line := range bytes.Lines(stderr) {
		_, text, ok := strings.Cut(string(line), "VBoxManage: error: ")
		if !ok || strings.HasPrefix(text, "Details:") || strings.HasPrefix(text, "Context:") || len(said) == 3 {
			continue
		}
		if text = printable(text); len(said) == 0 || said[len(said)-1] != text {
			said = append(said, text)
		}
	}
	f.Message = strings.Join(said, ": ")
	return f
}

// printable makes a text one line of at most 300 printable characters.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	r := []rune(strings.TrimSuffix(strings.Join(strings.Fields(s), " "), "."))
	if len(r) > 300 {
		return string(r[:300]) + "..."
	}
	return string(r)
}

// Error implements error.
func (f *Failure) Error() string {
	switch {
	case f.Lost:
		return fmt.Sprintf("VirtualBox's service, VBoxSVC, ended during VBoxManage %s: %s", f.Verb, f.Message)
	case f.Cut && f.Message == "":
		return fmt.Sprintf("VBoxManage %s did not say all that it was asked", f.Verb)
	case f.Cut:
		return fmt.Sprintf("VBoxManage %s did not say all that it was asked: %s", f.Verb, f.Message)
	case f.Exit < 0:
		return strings.TrimSuffix(fmt.Sprintf("VBoxManage %s was ended by a signal, as when it crashes: %s", f.Verb, f.Message), ": ")
	case f.Message == "" && f.Code == 0:
		return fmt.Sprintf("VBoxManage %s ended with exit code %d", f.Verb, f.Exit)
	case f.Code == 0:
		return fmt.Sprintf("VBoxManage %s: %s", f.Verb, f.Message)
	default:
		return fmt.Sprintf("VBoxManage %s: %s (0x%08x)", f.Verb, f.Message, uint32(f.Code))
	}
}

// Died tells whether VBoxSVC, or VBoxManage itself, ended in the middle of the call.
// Nobody knows what was done, and the next one may well fare better.
func (f *Failure) Died() bool { return f.Lost || f.Exit < 0 }

// Kind of the failure, by its codes alone.
func (f *Failure) Kind() error {
	if f.Cut {
		return providers.ErrUnavailable // whatever it was that went wrong on the way
	}
	if f.Status == "VERR_DISK_FULL" {
		return providers.ErrCapacity
	}
	switch f.Code {
	case CodeObjectNotFound:
		return providers.ErrNotFound
	case CodeInvalidVMState, CodeInvalidObject, CodeInvalidSession, CodeObjectInUse, CodeAccessDenied:
		return providers.ErrBusy
	case CodeInvalidArgument, CodePasswordIncorrect:
		return providers.ErrInvalid
	case CodeNotSupported, CodeNotImplemented:
		return providers.ErrUnsupported
	case CodeMaximumReached, CodeOutOfMemory:
		return providers.ErrCapacity
	case 0:
		if f.Exit == usageExit {
			return providers.ErrUnsupported // this VBoxManage does not know what was asked
		}
	}
	return providers.ErrUnavailable
}

// momentary tells whether the same call may well succeed in a moment: somebody
// has the machine's lock, or VBoxSVC has just ended or died. With it, VBoxManage may
// crash.
func (f *Failure) momentary() bool {
	if f.Unreached || f.Cut || f.looked && f.Died() {
		return true
	}
	switch f.Code {
	case CodeVM: // its process is just going; to others than who only looks it may mean more
		return f.Verb == "showvminfo"
	case CodeInvalidObject, CodeAccessDenied, CodeUnexpected, CodeCallFailed, CodeAborted, CodeInvalidSession:
		return true
	}
	return false
}
