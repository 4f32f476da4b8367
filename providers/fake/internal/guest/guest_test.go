package guest

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/utils/clock"

	"sandboxd.dev/sandboxd/providers/fake/internal/shell"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// boot starts a system that runs, and ends it with the test.
func boot(t *testing.T, disk *Disk) (s *System, console *bytes.Buffer) {
	t.Helper()
	console = &bytes.Buffer{}
	s = Boot(disk, Config{
		InstanceID: "one", Hostname: "box", User: "dev", Keys: []string{"ssh-ed25519 AAAA me"},
		CPUs: 2, Memory: 64 << 20, Console: console, PowerOff: func() {}, Clock: clock.RealClock{},
	})
	s.Thaw()
	t.Cleanup(s.Halt)
	return s, console
}

type output struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, s *System, stdin string, args ...string) output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	j, err := s.Start(Command{Args: args, Streams: shell.Streams{
		In: strings.NewReader(stdin), Out: &stdout, Err: &stderr,
	}})
	if err != nil {
		t.Fatalf("start %q: %v", args, err)
	}
	<-j.Done()
	return output{j.ExitCode(), stdout.String(), stderr.String()}
}

func TestScripts(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		want         output
	}{
		{"nothing", "", output{}},
		{"comment", "# nothing\n\n", output{}},
		{"words", `echo a  'b  c' "d $HOME" e\ f`, output{stdout: "a b  c d /root e f\n"}},
		{"empty words", `printf '<%s>' '' "" a`, output{stdout: "<><><a>"}},
		{"exit", "echo a; exit 3; echo b", output{code: 3, stdout: "a\n"}},
		{"exit code of the last", "false", output{code: 1}},
		{"and or", "true && echo a || echo b; false && echo c || echo d", output{stdout: "a\nd\n"}},
		{"not", "! true || echo a; ! false && echo b", output{stdout: "a\nb\n"}},
		{"status", "false; echo $?; echo $?; (exit 7); echo $?", output{stdout: "1\n0\n7\n"}},
		{"variables", "a=1 b=$a$a; echo $a ${b}x $c.", output{stdout: "1 11x .\n"}},
		{"exported for one", "X=1 env | cat; echo $X", output{
			stdout: "HOME=/root\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nUSER=root\nX=1\n\n",
		}},
		{"exported", "export X=1; sh -c 'echo $X'; unset X; sh -c 'echo .$X'", output{stdout: "1\n.\n"}},
		{"split", `a=" x  y "; for i in $a "$a"; do echo "<$i>"; done`, output{stdout: "<x>\n<y>\n< x  y >\n"}},
		{"substitution", `echo "$(echo a; echo b)" $(printf 'c\n\n')d`, output{stdout: "a\nb cd\n"}},
		{"status of a substitution", "x=$(exit 4); echo $?", output{stdout: "4\n"}},
		{"nested", `echo $(echo "$(echo 'a b')")`, output{stdout: "a b\n"}},
		{"pipe", "printf 'a\\nb\\n' | cat | wc -c", output{stdout: "4\n"}},
		{"pipe ends its writer", "yes | head -c 4", output{stdout: "y\ny\n"}},
		{"pipe ends a loop", "while :; do echo y; done | head -c 4", output{stdout: "y\ny\n"}},
		{"status of a pipe", "false | true; echo $?; true | (exit 5); echo $?", output{stdout: "0\n5\n"}},
		{"redirect", "echo a > /tmp/f; echo b >> /tmp/f; cat < /tmp/f; echo c >/tmp/f; cat /tmp/f", output{stdout: "a\nb\nc\n"}},
		{"streams", "(echo a; echo b >&2) 2>&1; echo c >&2", output{stdout: "a\nb\n", stderr: "c\n"}},
		{"both to a file", "(echo a; echo b >&2) >/tmp/f 2>&1; cat /tmp/f", output{stdout: "a\nb\n"}},
		{"missing file", "cat < /nope; echo $?", output{stdout: "1\n", stderr: "sh: /nope: no such file or directory\n"}},
		{"missing program", "nope; echo $?", output{stdout: "127\n", stderr: "sh: \"nope\": no such program\n"}},
		{"if", "if false; then echo a; elif true; then echo b; else echo c; fi", output{stdout: "b\n"}},
		{"else", "if [ -e /nope ]\nthen echo a\nelse echo c\nfi", output{stdout: "c\n"}},
		{"while", "echo xx > /tmp/f; while [ -s /tmp/f ]; do echo a; rm /tmp/f; done", output{stdout: "a\n"}},
		{"until", "until [ -e /tmp/g ]; do touch /tmp/g; echo a; done", output{stdout: "a\n"}},
		{"group", "{ echo a; echo b; } | wc -c", output{stdout: "4\n"}},
		{"subshell", "a=1; (a=2; cd /tmp; pwd); echo $a; pwd", output{stdout: "/tmp\n1\n/root\n"}},
		{"cd fails", "cd /nope || echo $?", output{stdout: "1\n", stderr: "sh: cd: /nope: no such file or directory\n"}},
		{"exec", "exec echo a; echo b", output{stdout: "a\n"}},
		{"wait", "(sleep 0.01; echo a) & wait; echo b", output{stdout: "a\nb\n"}},
		{"kill itself", "kill -9 $$; echo a", output{code: 137}},
		{"kill by name", "sh -c 'kill -TERM $$'; echo $?", output{stdout: "143\n"}},
		{"kill in the background", "sleep 1000 & kill -0 $! && kill $!; wait; kill -0 $! 2>/dev/null || echo gone", output{stdout: "gone\n"}},
		{"arithmetic is refused", "echo $((1+1))", output{code: 2, stderr: "sh: syntax error: arithmetic is not supported\n"}},
		{"globs are refused", "echo *", output{code: 2, stderr: "sh: syntax error: '*' is not supported\n"}},
		{"unfinished", "echo 'a", output{code: 2, stderr: "sh: syntax error: unexpected end of script\n"}},
		{"done without do", "done", output{code: 2, stderr: "sh: syntax error: unexpected 'd'\n"}},
		{"here-document is refused", "cat <<E", output{code: 2, stderr: "sh: syntax error: unexpected '<'\n"}},
		{"deep", strings.Repeat("(", 1000), output{code: 2, stderr: "sh: syntax error: nested more than 64 deep\n"}},
		{"runs itself", "echo 'exec sh /tmp/r' > /tmp/r; sh /tmp/r", output{code: 126, stderr: "sh: cannot fork: resource temporarily unavailable\n"}},
		{"grows without end", "a=xxxxxxxx; while :; do a=$a$a; done", output{code: 2, stderr: "sh: a word is longer than 1048576 bytes\n"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _ := boot(t, NewDisk(1<<20))
			if got := run(t, s, "", "sh", "-c", tc.script); got != tc.want {
				t.Errorf("%s\n got %+v\nwant %+v", tc.script, got, tc.want)
			}
		})
	}
}

func TestPrograms(t *testing.T) {
	s, console := boot(t, NewDisk(1<<20))
	for _, tc := range []struct {
		args  string
		stdin string
		want  output
	}{
		{"echo a b", "", output{stdout: "a b\n"}},
		{"cat - /etc/hostname", "in\n", output{stdout: "in\nbox\n"}},
		{"cat /nope /etc/hostname", "", output{code: 1, stdout: "box\n", stderr: "cat: /nope: no such file or directory\n"}},
		{"cat /tmp", "", output{code: 1, stderr: "cat: /tmp: is a directory\n"}},
		{"/bin/hostname", "", output{stdout: "box\n"}},
		{"hostname other", "", output{}},
		{"hostname", "", output{stdout: "other\n"}},
		{"nproc", "", output{stdout: "2\n"}},
		{"sha256sum", "", output{stdout: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  -\n"}},
		{"mkdir -p /tmp/a/b", "", output{}},
		{"mkdir /tmp/a", "", output{code: 1, stderr: "mkdir: /tmp/a: file exists\n"}},
		{"ls /tmp/a", "", output{stdout: "b\n"}},
		{"ls /dev", "", output{stdout: "console\nnull\nttyS0\nzero\n"}},
		{"rm /tmp/a", "", output{code: 1, stderr: "rm: /tmp/a: is a directory\n"}},
		{"rm -r /tmp/a", "", output{}},
		{"rm -f /tmp/a", "", output{}},
		{"ls /tmp/a", "", output{code: 1, stderr: "ls: /tmp/a: no such file or directory\n"}},
		{"touch /tmp/f", "", output{}},
		{"chmod 755 /tmp/f", "", output{}},
		{"test -x /tmp/f", "", output{}},
		{"test -d /tmp/f", "", output{code: 1}},
		{"[ a = a ]", "", output{}},
		{"[ ! a = a ]", "", output{code: 1}},
		{"[ 1 -eq 2 ]", "", output{code: 1}},
		{"test a -lt b", "", output{code: 2, stderr: "test: \"a -lt b\" is not supported\n"}},
		{"printf %s-%d%%\\n\\101\\n a 7 b 8", "", output{stdout: "a-7%\nA\nb-8%\nA\n"}},
		{"printf %x 1", "", output{code: 1, stderr: "printf: format \"%x\" is not supported\n"}},
		{"whoami", "", output{stdout: "root\n"}},
		{"id -u", "", output{stdout: "0\n"}},
		{"sh -c echo>/proc/meminfo", "", output{code: 1, stderr: "sh: /proc/meminfo: read-only file system\n"}},
		{"sh -c echo>/dev/null", "", output{}},
		{"cat /home/dev/.ssh/authorized_keys", "", output{stdout: "ssh-ed25519 AAAA me\n"}},
		{"ls /proc/sys", "", output{stdout: "kernel\n"}},
		{"cat /proc/sys", "", output{code: 1, stderr: "cat: /proc/sys: is a directory\n"}},
		{"cat /proc/nope", "", output{code: 1, stderr: "cat: /proc/nope: no such file or directory\n"}},
		{"touch /proc/x", "", output{code: 1, stderr: "touch: /proc/x: read-only file system\n"}},
		{"rm /proc/meminfo", "", output{code: 1, stderr: "rm: /proc/meminfo: read-only file system\n"}},
		{"mkdir /sys/x", "", output{code: 1, stderr: "mkdir: /sys/x: read-only file system\n"}},
		{"chmod 600 /proc/meminfo", "", output{code: 1, stderr: "chmod: /proc/meminfo: read-only file system\n"}},
		{"cat /dev/null", "", output{}},
		{"cat /dev", "", output{code: 1, stderr: "cat: /dev: is a directory\n"}},
		{"head -c 3 /dev/zero", "", output{stdout: "\x00\x00\x00"}},
		{"rm /dev/null", "", output{code: 1, stderr: "rm: /dev/null: read-only file system\n"}},
		{"mkdir /dev/x", "", output{code: 1, stderr: "mkdir: /dev/x: read-only file system\n"}},
		{"chmod 600 /dev/null", "", output{code: 1, stderr: "chmod: /dev/null: read-only file system\n"}},
		{"touch /dev/x", "", output{code: 1, stderr: "touch: /dev/x: read-only file system\n"}},
		{"touch /etc/hostname/x", "", output{code: 1, stderr: "touch: /etc/hostname/x: not a directory\n"}},
		{"chmod 888 /tmp/f", "", output{code: 1, stderr: "chmod: bad mode \"888\": it is not an octal number up to 777\n"}},
		{"wc -c /etc/hostname", "", output{stdout: "4\n"}},
		{"sh", "echo from stdin", output{stdout: "from stdin\n"}},
		{"sleep x", "", output{code: 1, stderr: "sleep: bad number \"x\"\n"}},
		{"kill 999", "", output{code: 1, stderr: "kill: 999: no such process\n"}},
	} {
		if got := run(t, s, tc.stdin, strings.Split(tc.args, " ")...); got != tc.want {
			t.Errorf("%s\n got %+v\nwant %+v", tc.args, got, tc.want)
		}
	}
	run(t, s, "", "sh", "-c", "echo hello > /dev/console")
	if console.String() != "hello\n" {
		t.Errorf("console: %q", console)
	}
}

func TestStartErrors(t *testing.T) {
	s, _ := boot(t, NewDisk(1<<20))
	for _, c := range []Command{
		{Args: []string{"nope"}},
		{Args: []string{"/bin/nope"}},
		{Args: []string{"/etc/hostname"}},
		{Args: []string{"/tmp"}},
		{Args: []string{"true"}, User: "nope"},
		{Args: []string{"true"}, Dir: "/nope"},
		{Args: []string{"true"}, Dir: "/etc/hostname"},
	} {
		if _, err := s.Start(c); err == nil {
			t.Errorf("%+v was started", c)
		}
	}
}

func TestScriptFile(t *testing.T) {
	s, _ := boot(t, NewDisk(1<<20))
	if err := s.WriteFile("/root/run", 0o755, []byte("#!/bin/sh\necho \"$0 $1 $#\"\n")); err != nil {
		t.Fatal(err)
	}
	if got := run(t, s, "", "/root/run", "a", "b"); got != (output{stdout: "/root/run a 2\n"}) {
		t.Errorf("got %+v", got)
	}
}

func TestMemoryAndDisk(t *testing.T) {
	disk := NewDisk(1 << 20)
	s, _ := boot(t, disk)
	run(t, s, "", "sh", "-c", "echo a > /root/kept; echo a > /tmp/lost")
	s.Halt()
	s, _ = boot(t, disk)
	if got := run(t, s, "", "sh", "-c", "cat /root/kept; [ -e /tmp/lost ] || echo lost"); got.stdout != "a\nlost\n" {
		t.Errorf("after a restart: %+v", got)
	}
	if got := run(t, s, "", "sh", "-c", "yes > /root/big"); got.code == 0 {
		t.Errorf("the disk took more than its size: %+v", got)
	}
	disk.Grow(2 << 20)
	if got := run(t, s, "", "sh", "-c", "echo a >> /root/big; cat /sys/block/vda/size"); got.stdout != "4096\n" {
		t.Errorf("after growth: %+v", got)
	}
}

// TestMounts checks that a folder of the host cannot be left or, when it is
// read-only, changed.
func TestMounts(t *testing.T) {
	s, _ := boot(t, NewDisk(1<<20))
	outside, folder := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(outside, "secret"), "secret")
	write(filepath.Join(folder, "file"), "text")
	if err := os.Symlink(filepath.Join(outside, "secret"), filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	if err := s.Mount("/mnt/a/b", folder, true); err != nil {
		t.Fatal(err)
	}
	if err := s.Mount("/mnt/rw", folder, false); err != nil {
		t.Fatal(err)
	}
	for script, want := range map[string]output{
		"cat /mnt/a/b/file":              {stdout: "text"},
		"ls /mnt/a/b":                    {stdout: "file\nlink\n"},
		"echo x > /mnt/a/b/file":         {code: 1, stderr: "sh: /mnt/a/b/file: read-only file system\n"},
		"rm /mnt/a/b/file":               {code: 1, stderr: "rm: /mnt/a/b/file: read-only file system\n"},
		"cat /mnt/rw/link":               {code: 1, stderr: "cat: /mnt/rw/link: permission denied\n"},
		"echo x > /mnt/rw/link":          {code: 1, stderr: "sh: /mnt/rw/link: permission denied\n"},
		"cat /mnt/rw/../../etc/hostname": {stdout: "box\n"},
		"mount":                          {stdout: "host /mnt/a/b 9p ro 0 0\nhost /mnt/rw 9p rw 0 0\n"},
	} {
		if got := run(t, s, "", "sh", "-c", script); got != want {
			t.Errorf("%s\n got %+v\nwant %+v", script, got, want)
		}
	}
	if got := run(t, s, "", "sh", "-c", "mkdir /mnt/rw/d && echo new > /mnt/rw/d/f"); got.code != 0 {
		t.Errorf("writing: %+v", got)
	}
	if got := run(t, s, "", "sh", "-c", "chmod 700 /mnt/rw/d/f && echo more >> /mnt/rw/d/f && rm /mnt/rw/file"); got.code != 0 {
		t.Errorf("changing: %+v", got)
	}
	if info, err := os.Stat(filepath.Join(folder, "d", "f")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("on the host its mode is %v, %v", info, err)
	}
	if b, err := os.ReadFile(filepath.Join(folder, "d", "f")); err != nil || string(b) != "new\nmore\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(b) != "secret" {
		t.Errorf("the file outside became %q, %v", b, err)
	}
}

func TestFreeze(t *testing.T) {
	s, _ := boot(t, NewDisk(1<<20))
	j, err := s.Start(Command{Args: []string{"sh", "-c", "until [ -e /tmp/go ]; do :; done"}})
	if err != nil {
		t.Fatal(err)
	}
	s.Freeze()
	if err := s.WriteFile("/tmp/go", fileMode, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-j.Done():
		t.Error("a frozen program went on")
	default:
	}
	s.Thaw()
	<-j.Done()
	if j.ExitCode() != 0 {
		t.Errorf("exit code %d", j.ExitCode())
	}
}

func TestKillEndsTheSession(t *testing.T) {
	s, _ := boot(t, NewDisk(1<<20))
	j, err := s.Start(Command{Args: []string{"sh", "-c", "sleep 1000 & sleep 1000"}})
	if err != nil {
		t.Fatal(err)
	}
	j.Kill()
	<-j.Done()
	if j.ExitCode() != 137 {
		t.Errorf("exit code %d", j.ExitCode())
	}
}

func FuzzScript(f *testing.F) {
	for _, s := range []string{
		`a="$(echo b)" c; if [ $? ]; then :; fi & ! x | y > z 2>&1`, "for i in a b; do $i; done", "${", "$((", "'",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		s, _ := boot(t, NewDisk(1<<20))
		j, err := s.Start(Command{
			Args:    []string{"sh", "-c", script},
			Streams: shell.Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard},
		})
		if err != nil {
			t.Fatal(err)
		}
		// A script may well be endless; that it can be ended is what counts.
		defer time.AfterFunc(20*time.Millisecond, j.Kill).Stop()
		<-j.Done()
	})
}
