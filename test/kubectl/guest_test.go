package kubectl_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// guest makes a sandbox whose guest can be reached.
func (k *kubectl) guest(name string) {
	k.t.Helper()
	k.apply(running(name))
	k.ready(name)
}

var guestChecks = []check{
	{"get pods shows sandboxes", 0, func(k *kubectl) {
		k.guest("one")
		k.ok("get", "pods").has(`^NAME +READY +STATUS +RESTARTS +AGE`, `^one +1/1 +Running +0 `)
		k.ok("wait", "pod/one", "--for=condition=Ready", "--timeout=2m").has(`condition met`)
		k.ok("describe", "pod", "one").has(`^Name: +one$`, `^Status: +Running$`)
	}},
	{"pods cannot be written, and it is said what to do", 0, func(k *kubectl) {
		k.guest("one")
		k.fails(1, "delete", "pod", "one").says(`(?i)delete the Sandbox of the same name`)
		k.ok("get", "sbx", "one")
	}},
	{"exec", 0, func(k *kubectl) {
		k.guest("one")
		k.ok("exec", "one", "--", "echo", "hello", "two words", "$HOME").is("hello two words $HOME")
		k.ok("exec", "pod/one", "-c", "guest", "--", "sh", "-c", "echo out; echo err >&2").is("out").says(`^err$`)
	}},
	{"exec passes the exit code on", 0, func(k *kubectl) {
		k.guest("one")
		k.fails(42, "exec", "one", "--", "sh", "-c", "exit 42").says(`command terminated with exit code 42`)
		r := k.run("", "exec", "one", "--", "nosuchprogram")
		if r.code == 0 || r.err == "" {
			k.t.Errorf("%s: exit %d", r, r.code)
		}
	}},
	{"exec -i", 0, func(k *kubectl) {
		k.guest("one")
		k.pipe("first line\nlast line\n", "exec", "-i", "one", "--", "cat").is("first line\nlast line")
		k.pipe("not read", "exec", "one", "--", "cat").is("")
	}},
	{"exec of much output", 0, func(k *kubectl) {
		k.guest("one")
		if got := k.ok("exec", "one", "--", "sh", "-c", "yes | head -c 3000000").out; len(got) != 3000000 {
			k.t.Errorf("%d bytes of 3000000 came", len(got))
		}
	}},
	{"exec into what is off, and into what is not there", 0, func(k *kubectl) {
		k.apply(stopped("idle"))
		k.eventually("it has stopped", func() bool { return k.get("sbx/idle", ".status.phase") == "Stopped" })
		r := k.run("", "exec", "idle", "--", "true")
		if r.code == 0 || r.err == "" {
			k.t.Errorf("%s: exit %d", r, r.code)
		}
		k.fails(1, "exec", "nope", "--", "true").says(`pods "nope" not found`)
	}},
	{"cp into a guest and out of it", 0, func(k *kubectl) {
		k.guest("one")
		data := make([]byte, 300<<10)
		_, err := rand.Read(data)
		must(k.t, err)
		there := fmt.Sprintf("/tmp/%s-%d", k.ns, os.Getpid()) // simulated guests share this machine's files
		k.t.Cleanup(func() { _ = os.RemoveAll(there) })
		k.ok("cp", k.file("there", string(data)), "one:"+there)
		k.ok("cp", "one:"+there, filepath.Join(k.dir, "back"))
		back, err := os.ReadFile(filepath.Join(k.dir, "back"))
		must(k.t, err)
		if string(back) != string(data) {
			k.t.Errorf("%d bytes came back, and are not the %d that were sent", len(back), len(data))
		}
	}},
	{"logs shows the serial console", 0, func(k *kubectl) {
		k.guest("one")
		k.eventually("the console says something", func() bool { return strings.TrimSpace(k.ok("logs", "one").out) != "" })
		k.ok("logs", "one", "-c", "guest", "--tail=1")
	}},
	{"logs -f goes on", 0, func(k *kubectl) {
		k.guest("one")
		k.eventually("the console says something", func() bool { return strings.TrimSpace(k.ok("logs", "one").out) != "" })
		p := k.start("logs", "-f", "one")
		p.shows(`.`)
		p.interrupt()
	}},
	{"port-forward listens", 0, func(k *kubectl) {
		k.guest("one")
		p := k.start("port-forward", "one", ":8080")
		p.shows(`^Forwarding from 127.0.0.1:\d+ -> 8080$`)
		p.interrupt()
	}},
}
