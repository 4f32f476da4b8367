package crash_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr/funcr"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/store"
)

// How a test starts itself as a daemon, which it then kills.
const (
	envDaemon = "SANDBOXD_CRASH_DAEMON" // the hypervisor
	envDir    = "SANDBOXD_CRASH_DIR"
	envPoint  = "SANDBOXD_CRASH_POINT"  // column and number
	envVictim = "SANDBOXD_CRASH_VICTIM" // "" for the daemon itself, or what to run
)

// remote is a daemon that is another process of this program:
//
//	test                          daemon
//	 ├── arm, disarm, points ──▶ stdin
//	 │            counted ◀───── stdout
//	 └────── died WHERE ◀─────── stdout, and then SIGKILL by itself
type remote struct {
	cmd   *exec.Cmd
	stdin io.Writer
	lines chan string
	gone  chan struct{}

	mu    sync.Mutex
	ended bool // by the test
}

// ask sends a word and gets the points that were counted.
func (r *remote) ask(word string) (counted [columns]int, err error) {
	if _, err := fmt.Fprintln(r.stdin, word); err != nil {
		return counted, err
	}
	select {
	case line := <-r.lines:
		_, err = fmt.Sscan(line, &counted[0], &counted[1], &counted[2], &counted[3], &counted[4])
		return counted, err
	case <-r.gone:
		return counted, errDead
	case <-time.After(patience):
		return counted, errors.New("the daemon does not answer")
	}
}

// spawn starts a daemon that dies as told and waits until it serves.
func spawn(on, dir, victim string, d *death) (*plane, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(dir+"/daemon.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envDaemon+"="+on, envDir+"="+dir, envVictim+"="+victim,
		fmt.Sprintf("%s=%d %d", envPoint, d.at.column, d.at.n))
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &remote{cmd: cmd, stdin: stdin, lines: make(chan string, 1), gone: make(chan struct{})}
	go r.listen(stdout, d)
	select {
	case <-r.lines: // it serves
	case <-r.gone:
		return nil, errors.New("the daemon ended at its start: see daemon.log")
	}
	d.remote = r
	c, err := client.New(client.Options{Socket: dir + "/s.sock"})
	if err != nil {
		return nil, err
	}
	return &plane{client: c, end: r.end}, nil
}

// listen reads what the daemon says, and learns of its end.
func (r *remote) listen(stdout io.Reader, d *death) {
	where := ""
	for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
		word, rest, _ := strings.Cut(scanner.Text(), " ")
		switch word {
		case "died":
			where = rest
		case "struck":
			go d.strikes(rest)
		default:
			r.lines <- scanner.Text()
		}
	}
	_ = r.cmd.Wait()
	r.mu.Lock()
	ended := r.ended
	r.mu.Unlock()
	close(r.gone)
	if ended {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remote, d.counted[d.at.column] = nil, d.at.n
	if where == "" {
		where = "by itself: " + r.cmd.ProcessState.String()
	}
	d.die(where)
}

func (r *remote) end() error {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	_ = r.cmd.Process.Kill() // it may have ended
	<-r.gone
	return nil
}

// serve is the daemon.
func serve(on string) error {
	dir := os.Getenv(envDir)
	if on == onlyAPI {
		return serveAPI(dir)
	}
	var at point
	if _, err := fmt.Sscan(os.Getenv(envPoint), &at.column, &at.n); err != nil {
		return err
	}
	d := newDeath(at)
	d.strike = func(where string) {
		victim := os.Getenv(envVictim)
		if victim == "" {
			fmt.Println("died " + where)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		out, err := exec.Command("sh", "-c", victim).CombinedOutput()
		fmt.Fprintf(os.Stderr, "struck: %v %s\n", err, out)
		fmt.Println("struck " + where)
	}
	log := funcr.New(func(prefix, args string) { fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05.000"), prefix, args) }, funcr.Options{Verbosity: 1})
	l := land{
		dir: dir, log: log, pace: realPace,
		open:   func(i providers.Instance) (providers.Provider, error) { return openReal(on, dir, i, log) },
		shared: func(s store.Store) store.Store { return &mortal{s, d, newJournal()} },
	}
	p, err := l.start(d)
	if err != nil {
		return err
	}
	_ = os.Remove(dir + "/s.sock")
	listener, err := net.Listen("unix", dir+"/s.sock")
	if err != nil {
		return err
	}
	go func() { _ = p.server.Serve(context.Background(), listener) }()
	fmt.Println("serving")
	for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
		switch scanner.Text() {
		case "arm":
			d.arm()
		case "disarm":
			d.disarm()
		}
		c := d.points()
		fmt.Println(c[0], c[1], c[2], c[3], c[4])
	}
	return errors.New("the test is gone")
}
