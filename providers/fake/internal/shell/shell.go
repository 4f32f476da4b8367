// Package shell runs a small part of the POSIX shell language on a simulated
// computer.
//
//	script ──Parse──▶ list ──Run──▶ exit code
//	                   │ item; item & item
//	                   └─ andOr       a && b || c
//	                       └─ pipeline    [!] a | b
//	                           └─ command     words and redirections, ( ), { },
//	                                          if, while, until, for
//
// Words know '…', "…", \c, $NAME, ${NAME}, $0…$9, $@, $#, $?, $$, $! and $(…).
// There are no globs, functions, arithmetic or here-documents: what is not
// known is a syntax error with exit code 2, never a guess.
//
// The language is all that lives here. Programs, files and processes belong to
// the Host.
package shell

import (
	"context"
	"fmt"
	"io"
)

// Exit codes that the shell itself gives.
const (
	ExitSyntax        = 2
	ExitNotExecutable = 126
	ExitNotFound      = 127
	exitSignal        = 128
)

// Streams are the standard streams of a command.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Program is a program to run in the foreground.
type Program struct {
	Args []string
	Env  []string
	Dir  string
	Streams
	// InPlace runs it as the shell's own process, as exec does.
	InPlace bool
}

// OpenMode says what a file is opened for.
type OpenMode int

// The modes of opening a file.
const (
	OpenRead OpenMode = iota
	OpenTruncate
	OpenAppend
)

// Host is the computer that a script runs on. Its methods may be called from
// several goroutines, because the parts of a pipeline run at the same time.
type Host interface {
	// PID of the process that runs the script.
	PID() int
	// Wait blocks while the computer is halted and returns an error once the
	// script has to end.
	Wait(ctx context.Context) error
	// Exec runs a program to its end and returns its exit code.
	Exec(ctx context.Context, p Program) int
	// Spawn runs f as a process of its own and returns its PID; 0 when there
	// are too many processes.
	Spawn(f func(ctx context.Context, h Host) int) int
	// Join waits for the end of every process that Spawn has made.
	Join(ctx context.Context)
	// Open opens a file, a relative name below dir.
	Open(dir, name string, mode OpenMode) (io.ReadWriteCloser, error)
	// Enter returns the absolute path of a directory, or an error.
	Enter(dir, name string) (string, error)
}

// Config is what a script starts with.
type Config struct {
	// Args are $0, $1 and so on.
	Args []string
	// Env are the variables, as NAME=value.
	Env []string
	Dir string
	Streams
}

// Run parses and runs a script and returns its exit code.
func Run(ctx context.Context, h Host, script string, cfg Config) int {
	l, err := parse(script)
	if err != nil {
		fmt.Fprintf(cfg.Err, "sh: syntax error: %v\n", err)
		return ExitSyntax
	}
	e := newEvaluator(h, cfg)
	return e.run(ctx, l)
}

// Interact runs lines as they are typed, until there are none or one of them says
// exit. next returns the next line, and false at the end.
func Interact(ctx context.Context, h Host, cfg Config, next func() (string, bool)) int {
	e := newEvaluator(h, cfg)
	for !e.exiting && ctx.Err() == nil {
		fmt.Fprint(e.streams.Err, "$ ")
		line, ok := next()
		if !ok {
			break
		}
		l, err := parse(line)
		if err != nil {
			fmt.Fprintf(e.streams.Err, "sh: syntax error: %v\n", err)
			e.status = ExitSyntax
			continue
		}
		e.run(ctx, l)
	}
	return e.status
}
