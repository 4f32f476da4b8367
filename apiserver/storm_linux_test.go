package apiserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store/bolt"
)

// stormy is how much is done to the server: make test-storm does all of it.
func stormy(few, many int) int {
	if os.Getenv("SANDBOXD_STORM") != "" {
		return many
	}
	return few
}

// descriptors is how many files this process may have open, beside those of the
// test itself.
func descriptors(t *testing.T) int {
	t.Helper()
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	return int(min(files.Cur, 1<<20)) - 200
}

// TestServing is no test: it is the server of those that need it in a process of
// its own.
func TestServing(t *testing.T) {
	dir := os.Getenv("SANDBOXD_STORM_SERVER")
	if dir == "" {
		t.Skip("it serves other tests")
	}
	if text := os.Getenv("SANDBOXD_STORM_FILES"); text != "" {
		files, err := strconv.ParseUint(text, 10, 64)
		if err == nil {
			err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	st, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	s, err := apiserver.New(t.Context(), apiserver.Options{Store: st, CRDs: v1.CRDs})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := s.Serve(ctx, l); err != nil {
		t.Fatal(err)
	}
}

// victim is a server in a process of its own.
type victim struct {
	world
	process *os.Process
}

// startVictim starts a server that may have so many files open; 0 means as many as
// this process.
func startVictim(t *testing.T, files int) *victim {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestServing$")
	cmd.Env = append(os.Environ(), "SANDBOXD_STORM_SERVER="+dir, "SANDBOXD_STORM=")
	if files > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("SANDBOXD_STORM_FILES=%d", files))
	}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v := &victim{world: world{t: t, path: filepath.Join(dir, "s")}, process: cmd.Process}
	eventually(t, "it listens", func() bool {
		c, err := net.Dial("unix", v.path)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	v.answers()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
		// The store is whole: it opens, and has what was written last.
		st, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = st.Close() }()
		if all, err := st.List(context.Background(), "sandboxes.sandboxd.dev", "default"); err != nil || len(all.Entries) == 0 {
			t.Errorf("the store has %d sandboxes, %v", len(all.Entries), err)
		}
	})
	return v
}

// resident is the memory of the server, in bytes.
func (v *victim) resident() int {
	v.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.process.Pid))
	if err != nil {
		v.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		v.t.Fatal(err)
	}
	return kb << 10
}

// files is how many files the server has open.
func (v *victim) files() int {
	v.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", v.process.Pid))
	if err != nil {
		v.t.Fatal(err)
	}
	return len(all)
}

// bounded fails the test when the server's memory has grown by more than that.
func (v *victim) bounded(before, most int) {
	v.t.Helper()
	if after := v.resident(); after-before > most {
		v.t.Errorf("the memory grew from %d to %d MB, by more than %d MB", before>>20, after>>20, most>>20)
	}
}

// TestStormIdle opens very many connections that do nothing after a request.
// Who comes is served, and each costs little.
func TestStormIdle(t *testing.T) {
	count := min(stormy(300, 10_000), descriptors(t)*3/4)
	v := startVictim(t, 0)
	before, files := v.resident(), v.files()
	conns := make([]net.Conn, count)
	defer func() { closeAll(conns) }()
	for i := range conns {
		conns[i] = v.dial()
		if _, err := io.WriteString(conns[i], "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conns[i]), nil)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		_ = response.Body.Close()
	}
	v.answers()
	each := (v.resident() - before) / count
	t.Logf("%d idle connections take %d bytes each", count, each)
	if count > 1000 && each > 64<<10 {
		t.Errorf("an idle connection takes %d bytes", each)
	}
	closeAll(conns)
	eventually(t, "the connections are gone", func() bool { return v.files() <= files+5 })
	v.answers()
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

// TestStormDescriptors opens more connections than the server may have files. It
// never runs out of them: the store is written to, and who comes is served. Where
// all are at work, who comes is told so.
func TestStormDescriptors(t *testing.T) {
	const files = 256
	v := startVictim(t, files)
	var conns []net.Conn
	defer func() { closeAll(conns) }()
	for range 2 * files { // none of them says anything
		conns = append(conns, v.dial())
	}
	v.answers()
	if n := v.files(); n > files*9/10 {
		t.Errorf("%d of %d files are open", n, files)
	}
	closeAll(conns)
	// Watches are never idle.
	refused := 0
	for range 2 * files {
		c := v.dial()
		conns = append(conns, c)
		_, _ = io.WriteString(c, "GET "+sandboxes+"?watch=true HTTP/1.1\r\nHost: x\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			continue // refused, before it had asked
		}
		if response.StatusCode == http.StatusServiceUnavailable {
			refused++
			if body, _ := io.ReadAll(response.Body); !isStatus(503, body) {
				t.Fatalf("it is refused with %s", body)
			}
		}
	}
	if refused == 0 {
		t.Error("nobody was told that there are too many")
	}
	if n := v.files(); n > files*9/10 {
		t.Errorf("%d of %d files are open", n, files)
	}
	closeAll(conns)
	eventually(t, "the watches have ended", func() bool { return v.files() < files/2 })
	v.answers()
}

// TestStormWatches opens and ends watches quickly, while others write.
func TestStormWatches(t *testing.T) {
	w := newWorld(t)
	count := stormy(60, 1000)
	stop := make(chan struct{})
	var writing, watching sync.WaitGroup
	writing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				w.api.patch(mergePatch, sandboxes+"/witness", fmt.Sprintf(`{"metadata":{"labels":{"i":"%d"}}}`, i)).want(200)
			}
		}
	})
	before := alive()
	for i := range count {
		watching.Go(func() {
			c := w.dial()
			defer func() { _ = c.Close() }()
			_, _ = io.WriteString(c, "GET "+sandboxes+"?watch=true HTTP/1.1\r\nHost: x\r\n\r\n")
			if i%3 == 0 {
				return // without having read a word
			}
			response, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || response.StatusCode != 200 {
				t.Errorf("watch %d: %v", i, err)
				return
			}
			if line, err := bufio.NewReader(response.Body).ReadString('\n'); err != nil || !strings.Contains(line, "ADDED") {
				t.Errorf("watch %d begins with %q, %v", i, line, err)
			}
		})
	}
	watching.Wait()
	close(stop)
	writing.Wait()
	w.calm()
	if after := alive(); after > before+32<<20 {
		t.Errorf("%d watches left %d MB", count, (after-before)>>20)
	}
	w.answers()
}

// alive is what the heap of this process holds.
func alive() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestStormSlowReaders: clients that ask for lists and watches and read nothing
// take no memory, and nobody waits for them.
func TestStormSlowReaders(t *testing.T) {
	v := startVictim(t, 0)
	big := strings.Repeat("x", 100<<10)
	c := newClient(t, unixConfig(v.path))
	for i := range 100 { // ten megabytes
		one := &v1.Sandbox{Spec: v1.SandboxSpec{Image: "tiny"}}
		one.Namespace, one.Name, one.Annotations = "default", fmt.Sprintf("big-%d", i), map[string]string{"big": big}
		if err := c.Create(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	before := v.resident()
	count := stormy(40, 400)
	conns := make([]net.Conn, 0, count)
	defer func() { closeAll(conns) }()
	for i := range count {
		conn := v.dial()
		conns = append(conns, conn)
		rq := []string{sandboxes, sandboxes + "?watch=true", sandboxes, allSandboxes + "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"}[i%4]
		accept := []string{"application/json", "application/json", asTable, asPartialList}[i%4]
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAccept: %s\r\n\r\n", rq, accept); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		v.answers()
		if i%5 == 0 {
			v.bounded(before, 200<<20) // as copies, they would be gigabytes
		}
	}
	closeAll(conns)
	v.answers()
}

// TestStormSlowSenders: clients that send their requests a byte at a time keep
// nobody out, and are ended once they have taken too long for the headers.
func TestStormSlowSenders(t *testing.T) {
	v := startVictim(t, 0)
	count := min(stormy(100, 3000), descriptors(t)/2)
	files, before := v.files(), v.resident()
	var sending sync.WaitGroup
	stop := make(chan struct{})
	began := time.Now()
	for i := range count {
		c := v.dial()
		text := "POST " + sandboxes + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n"
		if i%2 == 0 { // its headers take forever, else its body
			text += "X: " + strings.Repeat("x", 10_000)
		} else {
			_, _ = io.WriteString(c, text+"\r\n")
			text = strings.Repeat(" ", 10_000)
		}
		sending.Go(func() {
			defer func() { _ = c.Close() }()
			for j := range text {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
				}
				if _, err := io.WriteString(c, text[j:j+1]); err != nil {
					return // it has been ended
				}
			}
		})
	}
	for range 5 {
		v.answers()
	}
	v.bounded(before, count*128<<10+64<<20)
	if stormy(0, 1) == 1 {
		eventually(t, "those with slow headers are ended", func() bool { return v.files() <= files+count/2+10 })
		t.Logf("slow headers were ended after %v", time.Since(began))
		eventually(t, "those with slow bodies are ended", func() bool { return v.files() <= files+10 })
		t.Logf("slow bodies were ended after %v", time.Since(began))
	}
	close(stop)
	sending.Wait()
	v.answers()
}
