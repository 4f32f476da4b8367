package unattended

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kdomanski/iso9660"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/guest/cloudinit"
)

const machineID = "6253d238-8ffa-4c3a-ad45-3cb04de2eed4"

func answers(change func(*Answers)) Answers {
	a := New(machineID, "golden", v1.UnattendedInstall{User: "alice", Hostname: "box.example.org", Locale: "de_DE", Packages: []string{"curl", "g++"}}, "pass'word")
	a.Disk = "/dev/vda"
	if change != nil {
		change(&a)
	}
	return a
}

// TestDefaults are what a manifest that says little gets.
func TestDefaults(t *testing.T) {
	a := New(machineID, "golden", v1.UnattendedInstall{User: "alice"}, "x")
	if a.Hostname != "golden" || a.Locale != "en_US.UTF-8" {
		t.Errorf("hostname %q, locale %q", a.Hostname, a.Locale)
	}
	if a = New(machineID, "golden", v1.UnattendedInstall{Locale: "de_DE.ISO-8859-1"}, "x"); a.Locale != "de_DE.ISO-8859-1" {
		t.Errorf("locale %q", a.Locale)
	}
}

func TestAutoinstall(t *testing.T) {
	for user, named := range map[string]bool{"alice": true, "root": false} {
		a := answers(func(a *Answers) { a.User = user })
		text, err := a.autoinstall()
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Autoinstall struct {
				Version  int               `json:"version"`
				Locale   string            `json:"locale"`
				Identity map[string]string `json:"identity"`
				Packages []string          `json:"packages"`
				Shutdown string            `json:"shutdown"`
				Late     [][]string        `json:"late-commands"`
			} `json:"autoinstall"`
		}
		if err := yaml.Unmarshal([]byte(text), &got); err != nil || !strings.HasPrefix(text, "#cloud-config\n") {
			t.Fatalf("%v:\n%s", err, text)
		}
		i := got.Autoinstall
		if i.Version != 1 || i.Locale != "de_DE.UTF-8" || i.Shutdown != "poweroff" || !slices.Equal(i.Packages, a.Packages) {
			t.Errorf("%s: %+v", user, i)
		}
		if named && (i.Identity["username"] != user || i.Identity["password"] != a.PasswordHash || i.Identity["hostname"] != a.Hostname) || !named && i.Identity != nil {
			t.Errorf("%s: identity %v", user, i.Identity)
		}
		if len(i.Late) == 0 || !strings.Contains(i.Late[0][5], "usermod -p '"+a.PasswordHash+"' "+user) {
			t.Errorf("%s: late commands %q", user, i.Late)
		}
	}
}

func TestPreseed(t *testing.T) {
	has := func(a Answers, lines ...string) {
		t.Helper()
		have := strings.Split(a.preseed(), "\n")
		for _, line := range lines {
			if !slices.Contains(have, line) {
				t.Errorf("%q is not in\n%s", line, a.preseed())
			}
		}
	}
	a := answers(nil)
	has(a, "d-i passwd/username string alice", "d-i passwd/user-password-crypted password "+a.PasswordHash, "d-i passwd/root-login boolean false",
		"d-i netcfg/get_hostname string box", "d-i netcfg/get_domain string example.org", "d-i debian-installer/locale string de_DE.UTF-8",
		"d-i pkgsel/include string curl g++", "d-i partman-auto/disk string /dev/vda", "d-i debian-installer/exit/poweroff boolean true",
		"d-i netcfg/enable boolean false", "tasksel tasksel/first multiselect standard, ssh-server")
	a = answers(func(a *Answers) { a.User, a.Online = "root", true })
	has(a, "d-i passwd/root-login boolean true", "d-i passwd/root-password-crypted password "+a.PasswordHash, "d-i passwd/make-user boolean false")
	if strings.Contains(a.preseed(), "netcfg/enable") {
		t.Error("an installer with a network is told to have none")
	}
	// Which mirror to use is the installer's to know.
	if regexp.MustCompile(`(?m)^d-i (mirror/|apt-setup/local)|://|[a-z]\.(org|com|net)$`).MatchString(strings.ReplaceAll(a.preseed(), "example.org", "")) {
		t.Errorf("an installer is told a mirror:\n%s", a.preseed())
	}
}

// TestWrite reads the CD with a reader that is not ours.
func TestWrite(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, answers(nil)); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b.Bytes(), []byte("pass'word")) {
		t.Error("the password is on the CD")
	}
	img, err := iso9660.OpenImage(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if label, err := img.Label(); err != nil || label != "cidata" {
		t.Errorf("label %q, %v", label, err)
	}
	c, err := openCD(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"meta-data", "user-data", "preseed.cfg"} {
		r, err := c.open(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if text, err := io.ReadAll(r); err != nil || len(text) == 0 {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	var again bytes.Buffer
	if err := Write(&again, answers(nil)); err != nil || !bytes.Equal(again.Bytes(), b.Bytes()) {
		t.Errorf("the same answers are other bytes (%v)", err)
	}
}

// TestHostileAnswers are refused wherever they would be written.
func TestHostileAnswers(t *testing.T) {
	for name, change := range map[string]func(*Answers){
		"a user of two lines":       func(a *Answers) { a.User = "a\nd-i x/y string z" },
		"a user with a command":     func(a *Answers) { a.User = "a;reboot" },
		"no user":                   func(a *Answers) { a.User = "" },
		"a host name with a quote":  func(a *Answers) { a.Hostname = "a'b" },
		"a host name with a space":  func(a *Answers) { a.Hostname = "a b" },
		"a locale of two lines":     func(a *Answers) { a.Locale = "de_DE.UTF-8\nx" },
		"a package with a command":  func(a *Answers) { a.Packages = []string{"curl", "$(reboot)"} },
		"a package that is a flag":  func(a *Answers) { a.Packages = []string{"--force"} },
		"a disk that is elsewhere":  func(a *Answers) { a.Disk = "/dev/../etc" },
		"a password that is plain":  func(a *Answers) { a.PasswordHash = "secret" },
		"a hash with a quote in it": func(a *Answers) { a.PasswordHash = strings.Replace(a.PasswordHash, "$6$", "$6$'", 1) },
		"an instance of two lines":  func(a *Answers) { a.InstanceID = "a\nb" },
	} {
		if err := Write(io.Discard, answers(change)); err == nil {
			t.Errorf("%s: written", name)
		}
		if err := (&Boot{initramfs: strings.NewReader(""), preseed: true}).WriteInitramfs(io.Discard, answers(change)); err == nil {
			t.Errorf("%s: written into an initramfs", name)
		}
	}
}

// iso writes an ISO of some files, with a writer that is not ours.
func iso(t *testing.T, files map[string]string) *os.File {
	t.Helper()
	w, err := iso9660.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Cleanup() }()
	for path, text := range files {
		if err := w.AddFile(strings.NewReader(text), path); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "x.iso"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := w.WriteTo(f, "TEST"); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRecognise(t *testing.T) {
	for _, tt := range []struct {
		name   string
		files  map[string]string
		system string
	}{
		{"ubuntu", map[string]string{"casper/vmlinuz": "K", "casper/initrd": "I"}, "Ubuntu's live installer"},
		{"without an initramfs", map[string]string{"casper/vmlinuz": "K"}, ""},
		{"something else", map[string]string{"boot/kernel": "K"}, ""},
		{"a directory in the kernel's place", map[string]string{"casper/vmlinuz/x": "K", "casper/initrd": "I"}, ""},
	} {
		b, err := Recognise(iso(t, tt.files))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if b == nil {
			if tt.system != "" {
				t.Errorf("%s: not recognised", tt.name)
			}
			continue
		}
		var kernel, initramfs bytes.Buffer
		if err := b.WriteKernel(&kernel); err != nil || kernel.String() != "K" {
			t.Errorf("%s: kernel %q, %v", tt.name, kernel.String(), err)
		}
		if err := b.WriteInitramfs(&initramfs, answers(nil)); err != nil || initramfs.String() != "I" {
			t.Errorf("%s: initramfs %q, %v", tt.name, initramfs.String(), err)
		}
		if b.System != tt.system || !strings.Contains(b.Cmdline, "autoinstall") {
			t.Errorf("%s: recognised as %s with %q", tt.name, b.System, b.Cmdline)
		}
	}
}

// TestDebian takes Joliet names, which the other writer does not make.
func TestDebian(t *testing.T) {
	var b bytes.Buffer
	if err := cloudinit.WriteFiles(&b, "x", map[string][]byte{"vmlinuz": []byte("K")}); err != nil {
		t.Fatal(err)
	}
	c, err := openCD(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil || !c.joliet {
		t.Fatalf("Joliet: %v", err)
	}
	boot := &Boot{initramfs: strings.NewReader("12345"), preseed: true}
	var out bytes.Buffer
	if err := boot.WriteInitramfs(&out, answers(nil)); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if at := strings.Index(text, "070701"); at != 8 || !strings.Contains(text, "preseed.cfg\x00") || !strings.Contains(text, answers(nil).preseed()) || len(text)%4 != 0 {
		t.Errorf("initramfs %.40q...", text)
	}
}

// TestScript: where the script is on the CD, its command line names it.
func TestScript(t *testing.T) {
	for name, tt := range map[string]struct{ path, script, cmdline string }{
		"debian": {"install.amd/vmlinuz install.amd/initrd.gz", "d-i passwd/username string alice\n", "preseed/file=/cdrom/preseed.cfg auto=true"},
		"ubuntu": {"casper/vmlinuz casper/initrd", "autoinstall:", "autoinstall ds=nocloud"},
	} {
		for i := range installers {
			in := installers[i]
			if in.kernel+" "+in.initramfs != tt.path {
				continue
			}
			b := &Boot{System: in.system, Cmdline: in.cmdline, preseed: in.preseed}
			script, err := b.Script(answers(nil))
			if err != nil || !strings.Contains(script, tt.script) || !strings.HasPrefix(b.FromCD(), tt.cmdline) {
				t.Errorf("%s: %q, %v\n%s", name, b.FromCD(), err, script)
			}
			if _, err := b.Script(answers(func(a *Answers) { a.User = "x\ny" })); err == nil {
				t.Errorf("%s: a hostile answer is written", name)
			}
		}
	}
}

func TestNotAnISO(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if b, err := Recognise(f); err == nil {
		t.Errorf("recognised as %v", b)
	}
}

// TestHostileISO changes an ISO at random: whatever it says, reading it ends,
// within bounds and without a panic.
func TestHostileISO(t *testing.T) {
	good, err := os.ReadFile(iso(t, map[string]string{"casper/vmlinuz": "K", "casper/initrd": "I"}).Name())
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		bad := bytes.Clone(good)
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			at := rapid.IntRange(16*sector, len(bad)-5).Draw(t, "at")
			binary.LittleEndian.PutUint32(bad[at:], rapid.Uint32().Draw(t, "to"))
		}
		c, err := openCD(bytes.NewReader(bad), int64(len(bad)))
		if err != nil {
			return
		}
		r, err := c.open("casper/vmlinuz")
		if err == nil && r.Size() > int64(len(bad)) {
			t.Fatalf("a file of %d bytes in an image of %d", r.Size(), len(bad))
		}
	})
}

// TestLargeDirectory reads a directory that fills several sectors.
func TestLargeDirectory(t *testing.T) {
	files := map[string]string{}
	for i := range 200 {
		files["casper/file"+strings.Repeat("x", i%5)+string(rune('a'+i%26))+string(rune('a'+i/26))] = "x"
	}
	files["casper/vmlinuz"], files["casper/initrd"] = "K", "I"
	b, err := Recognise(iso(t, files))
	if err != nil || b == nil {
		t.Fatalf("%v, %v", b, err)
	}
}
