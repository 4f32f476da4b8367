package kubectl_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"sandboxd.dev/sandboxd/test/capture"
	"sandboxd.dev/sandboxd/test/daemon"
	"sandboxd.dev/sandboxd/test/terminal"
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
	{"debug is refused by a sentence", 30, func(k *kubectl) {
		k.guest("one")
		k.fails(1, "debug", "one", "--image=x").says(`ephemeral containers are disabled`)
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
		there := "/tmp/there"
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
	{"logs -f shows what comes later", 0, func(k *kubectl) {
		k.guest("one")
		p := k.start("logs", "-f", "one")
		p.shows(`.`)
		k.ok("exec", "one", "--", "sh", "-c", "echo said later > /dev/console")
		p.shows(`said later`)
		p.interrupt()
	}},
	{"attach shows the serial console", 0, func(k *kubectl) {
		k.guest("one")
		p := k.start("attach", "one")
		// It shows what comes once it is attached, which it does not tell.
		k.eventually("attach shows what the console prints", func() bool {
			k.ok("exec", "one", "--", "sh", "-c", "echo printed there > /dev/console")
			return strings.Contains(p.out.String(), "printed there")
		})
		p.interrupt()
	}},
	{"attach -i types at the serial console", 0, func(k *kubectl) {
		k.guest("one")
		k.startTyping("echo ty''ped there > /tmp/typed\n", "attach", "-i", "one")
		k.eventually("what was typed was run", func() bool {
			return strings.TrimSpace(k.run("", "exec", "one", "--", "cat", "/tmp/typed").out) == "typed there"
		})
	}},
	{"exec -it at a terminal", 0, func(k *kubectl) {
		k.guest("one")
		keys, screen := terminal.Open(k.t, 101, 33)
		cmd := k.command(context.Background(), "", []string{"exec", "-it", "one", "--", "sh"})
		cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		var shown capture.Buffer
		go func() { _, _ = io.Copy(&shown, keys) }()
		must(k.t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		k.t.Cleanup(func() { _ = cmd.Process.Kill() })
		// The first size comes beside the command, so it is asked for again.
		k.eventually("the guest's terminal has the size of ours", func() bool {
			_, err := io.WriteString(keys, "stty size\r")
			must(k.t, err)
			time.Sleep(200 * time.Millisecond)
			return strings.Contains(shown.String(), "33 101\r\n")
		})
		_, err := io.WriteString(keys, "exit 7\r")
		must(k.t, err)
		select {
		case err := <-ended:
			k.t.Logf("it ended: %v", err) // its exit code is looked at below
		case <-time.After(daemon.Patience):
			k.t.Fatalf("it does not end: %s", &shown)
		}
		if code := cmd.ProcessState.ExitCode(); code != 7 {
			k.t.Errorf("exit %d, want 7: %s", code, &shown)
		}
	}},
	{"port-forward passes bytes on both ways", 0, func(k *kubectl) {
		k.guest("one") // without a network: the daemon reaches into the guest
		p := k.start("port-forward", "one", ":7")
		p.shows(`^Forwarding from 127.0.0.1:\d+ -> 7$`)
		address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(p.out.String())
		c, err := net.DialTimeout("tcp", address, daemon.Patience)
		must(k.t, err)
		defer func() { _ = c.Close() }()
		must(k.t, c.SetDeadline(time.Now().Add(daemon.Patience)))
		data := make([]byte, 200<<10)
		_, err = rand.Read(data)
		must(k.t, err)
		go func() { _, _ = c.Write(data) }() // what does not arrive does not come back
		back := make([]byte, len(data))
		n, err := io.ReadFull(c, back)
		if err != nil || !bytes.Equal(back, data) {
			k.t.Errorf("%d bytes of %d came back (%v), the same: %v", n, len(data), err, bytes.Equal(back, data))
		}
		p.interrupt()
	}},
}
