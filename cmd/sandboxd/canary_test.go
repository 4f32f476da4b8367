package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// reachableCmd lists the TCP addresses on which the daemon listens, as the kernel
// knows them: for anybody who reaches them, whoever that is.
func reachableCmd(ts *testscript.TestScript, neg bool, args []string) {
	d := ts.Value(daemonKey{}).(*daemonProcess)
	if neg || len(args) != 0 || d.cmd == nil {
		ts.Fatalf("usage: reachable, with a daemon")
	}
	root := fmt.Sprintf("/proc/%d", d.cmd.Process.Pid)
	own := map[string]bool{}
	fds, err := filepath.Glob(root + "/fd/*")
	ts.Check(err)
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			own[to] = true
		}
	}
	found := "nothing\n"
	for _, table := range []string{"/net/tcp", "/net/tcp6", "/net/udp", "/net/udp6"} {
		b, err := os.ReadFile(root + table)
		ts.Check(err)
		for line := range strings.Lines(string(b)) {
			const listening, unconnected = "0A", "07"
			if f := strings.Fields(line); len(f) > 9 && (f[3] == listening || f[3] == unconnected) && own["socket:["+f[9]+"]"] {
				found = strings.TrimPrefix(found, "nothing\n") + table[len("/net/"):] + " " + f[1] + "\n"
			}
		}
	}
	_, err = fmt.Fprint(ts.Stdout(), found)
	ts.Check(err)
}

// canaryCmd looks for secrets where none may be:
//
//	canary watch WORD…   from now on, in the arguments of the daemon and its children
//	canary absent WORD…  in its log, in events, in what objects say besides their specs,
//	                     in metrics and profiles, in files of the data folder that
//	                     others may read, and where watch has looked
//	canary stored WORD   it is in the store, so that the others look for what exists
func canaryCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: canary watch|absent|stored WORD…")
	}
	d := ts.Value(daemonKey{}).(*daemonProcess)
	if d.cmd == nil {
		ts.Fatalf("canary: there is no daemon")
	}
	words := args[1:]
	switch args[0] {
	case "watch":
		w := watchArguments(d.cmd.Process.Pid, words)
		ts.Defer(func() { w.end() })
		watchers.Store(ts.Getenv("WORK"), w)
	case "absent":
		places := toldIn(ts, d)
		if w, ok := watchers.Load(ts.Getenv("WORK")); ok {
			places["the arguments of a process"] = w.(*watcher).found()
		}
		for place, text := range places {
			for _, word := range words {
				if i := strings.Index(text, word); i >= 0 {
					ts.Fatalf("%s tells %q: …%.300q", place, word, text[max(0, i-150):])
				}
			}
		}
	case "stored":
		b, err := os.ReadFile(filepath.Join(ts.Getenv("WORK"), "data", "store.db"))
		ts.Check(err)
		if !strings.Contains(string(b), words[0]) {
			ts.Fatalf("%q is not in the store", words[0])
		}
	default:
		ts.Fatalf("canary: unknown action %q", args[0])
	}
}

// toldIn is all that may be read by whom secrets are not for.
func toldIn(ts *testscript.TestScript, d *daemonProcess) map[string]string {
	get := func(args ...string) string {
		cmd := exec.Command("sandboxd", args...)
		cmd.Env = []string{"SANDBOXD_SOCKET=" + ts.Getenv("SANDBOXD_SOCKET"), "GORACE=" + os.Getenv("GORACE")}
		out, err := cmd.Output()
		ts.Check(err)
		return string(out)
	}
	places := map[string]string{
		"an event":  get("get", "events", "-A", "-o", "json", "--ignore-not-found"),
		"an object": withoutSpecs(ts, get("get", "sandboxes,goldenimages,sandboxsnapshots", "-A", "-o", "json", "--ignore-not-found")),
	}
	places["the log"] = d.log.String()
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/cmdline"} {
		places[path] = httpGet(ts, "GET", path)
	}
	data := filepath.Join(ts.Getenv("WORK"), "data")
	ts.Check(filepath.WalkDir(data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		// The store, and whatever else only the daemon's user reads.
		if info.Mode().Perm()&0o077 == 0 {
			return nil
		}
		b, err := os.ReadFile(path)
		places[path+" ("+info.Mode().String()+")"] = string(b)
		return err
	}))
	if info, err := os.Stat(filepath.Join(data, "store.db")); err != nil || info.Mode().Perm() != 0o600 {
		ts.Fatalf("the store: %v, %v", info.Mode(), err)
	}
	return places
}

// withoutSpecs leaves of objects what the daemon itself says of them.
func withoutSpecs(ts *testscript.TestScript, list string) string {
	if list == "" {
		return ""
	}
	var all struct {
		Items []map[string]any `json:"items"`
	}
	ts.Check(json.Unmarshal([]byte(list), &all))
	for _, item := range all.Items {
		delete(item, "spec")
	}
	b, err := json.Marshal(all)
	ts.Check(err)
	return string(b)
}

// watchers by the folder of their script.
var watchers sync.Map

// watcher looks at the arguments and the environment of a process and of all that
// descend from it, over and over.
type watcher struct {
	over, ended chan struct{}
	once        sync.Once

	mu   sync.Mutex
	told []string
}

func watchArguments(root int, words []string) *watcher {
	w := &watcher{over: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for {
			select {
			case <-w.over:
				return
			default:
				w.look(root, words)
			}
		}
	}()
	return w
}

func (w *watcher) look(root int, words []string) {
	family := map[int]bool{root: true}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for range 3 { // children of children
		for _, dir := range all {
			var parent int
			stat, _ := os.ReadFile(dir + "/stat")
			_, rest, _ := strings.Cut(string(stat), ") ")
			_, _ = fmt.Sscanf(rest, "%1s %d", new(string), &parent)
			if id, err := strconv.Atoi(filepath.Base(dir)); err == nil && family[parent] {
				family[id] = true
			}
		}
	}
	for id := range family {
		for _, file := range []string{"cmdline", "environ"} {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", id, file))
			for _, word := range words {
				if strings.Contains(string(b), word) {
					w.mu.Lock()
					w.told = append(w.told, string(b))
					w.mu.Unlock()
				}
			}
		}
	}
}

// found is where words were seen.
func (w *watcher) found() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.told, "\n")
}

func (w *watcher) end() {
	w.once.Do(func() { close(w.over) })
	<-w.ended
}
