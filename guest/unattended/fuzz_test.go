package unattended

import (
	"bytes"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// FuzzAnswers: whatever a manifest says, an installer is asked nothing more, told
// nothing else, and no shell of it runs another word.
func FuzzAnswers(f *testing.F) {
	f.Add("alice", "box.example.org", "de_DE.UTF-8", "g++", "/dev/vda")
	f.Add("a\nd-i preseed/late_command string reboot", "a;reboot", "en_US.UTF-8 x", "$(reboot)", "/dev/../etc")
	f.Add("root", "a'b", "xx_XX.\n", "-o", "/dev/sda\n")
	plain := answers(nil)
	lines := strings.Count(plain.preseed(), "\n")
	f.Fuzz(func(t *testing.T, user, host, locale, pkg, disk string) {
		a := answers(func(a *Answers) {
			a.User, a.Hostname, a.Locale, a.Packages, a.Disk = user, host, locale, []string{pkg}, disk
		})
		if a.Check() != nil {
			return
		}
		text := a.preseed()
		if n := strings.Count(text, "\n"); n > lines || n < lines-2 {
			t.Fatalf("%d lines instead of %d:\n%s", n, lines, text)
		}
		if strings.ContainsAny(user+host+locale+pkg+disk, " \t\r\n'\"\\$`;&|<>(){}*?!#~\x00") || strings.HasPrefix(pkg, "-") {
			t.Fatalf("%+v passes", a)
		}
		config, err := a.autoinstall()
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]map[string]any
		if err := yaml.Unmarshal([]byte(config), &got); err != nil || len(got) != 1 || len(got["autoinstall"]) > 10 {
			t.Fatalf("%v:\n%s", err, config)
		}
	})
}

// FuzzISO: an installer's ISO is anybody's; looking for a kernel in it ends soon and
// reads nothing beyond its end.
func FuzzISO(f *testing.F) {
	var b bytes.Buffer
	if err := Write(&b, answers(nil)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[:min(b.Len(), 64<<10)])
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := openCD(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		for _, name := range []string{"preseed.cfg", "install.amd/vmlinuz"} {
			r, err := c.open(name)
			if err == nil && r.Size() > int64(len(raw)) {
				t.Fatalf("%s has %d bytes of %d", name, r.Size(), len(raw))
			}
		}
	})
}
