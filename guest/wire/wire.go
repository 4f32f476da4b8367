// Package wire is what the client and the daemon say to each other about the
// inside of a guest: the endpoints below a Sandbox, their parameters, and how
// the end of a command is told.
//
//	GET …/sandboxes/NAME/exec?command=…   WebSocket, subprotocol v5.channel.k8s.io
//	GET …/sandboxes/NAME/attach           the same, to the serial console
//	GET …/sandboxes/NAME/portforward      WebSocket, subprotocol SPDY/3.1+portforward.k8s.io
//	GET, PUT …/sandboxes/NAME/files?path=…      one file
//	GET, PUT …/sandboxes/NAME/archive?path=…    a directory, as a tar stream
//	GET …/sandboxes/NAME/log?follow=…           the serial console
//	GET …/sandboxes/NAME/diskdiff?from=…&to=…   how two states of the disk differ
//	GET …/sandboxes/NAME/diskarchive?path=…     a file or directory of a disk, as a tar stream
//	GET …/goldenimages/NAME/log?follow=…        what an image's build printed
//
// The exec protocol is that of Kubernetes' own exec: the first byte of each
// message is its channel, the last message of the server is a Status on the
// error channel. docs/access.md describes all of it.
package wire

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names of the endpoints.
const (
	Exec   = "exec"
	Attach = "attach"
	// PortForward carries TCP connections to ports of the guest.
	PortForward = "portforward"
	Files       = "files"
	Archive     = "archive"
	Log         = "log"
	// DiskDiff and DiskArchive read disks without the guest's help.
	DiskDiff    = "diskdiff"
	DiskArchive = "diskarchive"
)

// Protocol is the WebSocket subprotocol of Exec.
const Protocol = "v5.channel.k8s.io"

// Channels of a message, its first byte.
const (
	Stdin  byte = 0
	Stdout byte = 1
	Stderr byte = 2
	Result byte = 3
	Resize byte = 4
	// Close is followed by the channel that has ended.
	Close byte = 255
)

// MaxMessage is the greatest size of a message, in bytes, its channel included.
const MaxMessage = 1 << 20

// PortForwardProtocol is the WebSocket subprotocol of PortForward: SPDY in
// binary messages.
const PortForwardProtocol = "SPDY/3.1+portforward.k8s.io"

// Guest is the name of the container of the pod that shows a Sandbox.
const Guest = "guest"

// Parameters of Exec.
const (
	// ParamContainer is empty or Guest.
	ParamContainer = "container"
	ParamCommand   = "command" // repeated
	ParamStdin     = "stdin"
	ParamStdout    = "stdout"
	ParamStderr    = "stderr"
	ParamTTY       = "tty"
	ParamTimeout   = "timeout"
	ParamUser      = "user"
	ParamDir       = "dir"
	ParamEnv       = "env" // repeated
	ParamMaxOutput = "maxOutput"
)

// Parameters of Files, Archive and Log.
const (
	ParamPath      = "path"
	ParamMode      = "mode"
	ParamFollow    = "follow"
	ParamTailBytes = "tailBytes"
	ParamTailLines = "tailLines"
	// ParamLimitBytes bounds what is sent. Of what kubectl may ask for besides, the
	// log of a console does not know times.
	ParamLimitBytes   = "limitBytes"
	ParamPrevious     = "previous"
	ParamTimestamps   = "timestamps"
	ParamSinceSeconds = "sinceSeconds"
	ParamSinceTime    = "sinceTime"
)

// Parameters of DiskDiff and DiskArchive.
const (
	// ParamFrom and ParamTo name snapshots. Unset means "golden", which is what the
	// sandbox began as, and the disk as it is now.
	ParamFrom = "from"
	ParamTo   = "to"
	// ParamTouched asks for files of which only the time differs, too.
	ParamTouched = "touched"
	// ParamContent is the path of a text file whose contents are compared.
	ParamContent = "content"
	// ParamSnapshot is the snapshot to copy out of; unset means the disk as it is now.
	ParamSnapshot = "snapshot"
)

// HeaderDir of DiskArchive tells whether the path is a directory: true or false. The
// archive of a file has that one file.
const HeaderDir = "X-File-Dir"

// Trailers of a stream that the daemon sends. The size and the mode of a file
// are known only once it was read.
const (
	TrailerMode = "X-File-Mode"
	TrailerSize = "X-File-Size"
	// TrailerError says why a stream ended early. It is sent to those who
	// announce with the header "TE: trailers" that they look at it; for all
	// others the connection is broken off, so that nobody takes a part for the
	// whole.
	TrailerError = "X-Stream-Error"
)

// Reason and causes of the Status that ends a command.
const (
	ReasonNonZeroExitCode metav1.StatusReason = "NonZeroExitCode"
	// ReasonOutcomeUnknown: the command may have run, and nobody saw how it ended.
	ReasonOutcomeUnknown metav1.StatusReason = "OutcomeUnknown"
	CauseExitCode        metav1.CauseType    = "ExitCode"
	CauseTimedOut        metav1.CauseType    = "TimedOut"
	CauseTruncated       metav1.CauseType    = "OutputTruncated"
	// CauseNotStarted: there was no command; the exit code is one of those below.
	CauseNotStarted metav1.CauseType = "NotStarted"
)

// Exit codes of commands that could not be started, as shells have them.
const (
	ExitCannotStart = 126
	ExitNotFound    = 127
)

// End is how a command ended.
type End struct {
	ExitCode  int
	TimedOut  bool
	Truncated bool
	// NotStarted: the command could not be started; Message says why.
	NotStarted bool
	// Message says more than the exit code does; may be empty.
	Message string
}

// Status makes the Status that tells of an end.
func (e End) Status() metav1.Status {
	s := metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusSuccess, Code: http.StatusOK,
	}
	var causes []metav1.StatusCause
	if e.ExitCode != 0 || e.TimedOut {
		s.Status, s.Reason, s.Code = metav1.StatusFailure, ReasonNonZeroExitCode, http.StatusInternalServerError
		s.Message = e.Message
		if s.Message == "" {
			s.Message = fmt.Sprintf("command terminated with exit code %d", e.ExitCode)
		}
		causes = append(causes, metav1.StatusCause{Type: CauseExitCode, Message: strconv.Itoa(e.ExitCode)})
	}
	if e.TimedOut {
		causes = append(causes, metav1.StatusCause{Type: CauseTimedOut, Message: "the command was killed because its time was up"})
	}
	if e.Truncated {
		causes = append(causes, metav1.StatusCause{Type: CauseTruncated, Message: "output beyond the limit was dropped"})
	}
	if e.NotStarted {
		causes = append(causes, metav1.StatusCause{Type: CauseNotStarted, Message: "the command could not be started"})
	}
	if causes != nil {
		s.Details = &metav1.StatusDetails{Causes: causes}
	}
	return s
}

// ParseEnd reads a Status of the error channel. ok is false when the Status
// does not tell of a command that ended, but of why there is none.
func ParseEnd(raw []byte) (e End, s metav1.Status, ok bool, err error) {
	if err := json.Unmarshal(raw, &s); err != nil {
		return e, s, false, fmt.Errorf("the daemon's last message is not a Status: %w", err)
	}
	if s.Details != nil {
		for _, c := range s.Details.Causes {
			switch c.Type {
			case CauseExitCode:
				if e.ExitCode, err = strconv.Atoi(c.Message); err != nil {
					return e, s, false, fmt.Errorf("the daemon tells %q for an exit code", c.Message)
				}
			case CauseTimedOut:
				e.TimedOut = true
			case CauseTruncated:
				e.Truncated = true
			case CauseNotStarted:
				e.NotStarted = true
			}
		}
	}
	e.Message = s.Message
	return e, s, s.Status == metav1.StatusSuccess || s.Reason == ReasonNonZeroExitCode, nil
}
