package vboxmanage

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestParseInfo(t *testing.T) {
	info := ParseInfo([]byte(`name="a \"quoted\" \\ name"
description="two
lines = here"
"SATA-0-0"="/a/{b}.vdi"
memory=32
VideoMode="720,400,0"@0,0 1
 rec_screen0
VRDEClients==0
nic1="none"
GuestAdditionsVersion="7.2
nic1="nat"
nic2="nat"
last="open`))
	for key, want := range map[string]string{
		"name": `a "quoted" \ name`, "description": "two\nlines = here", "SATA-0-0": "/a/{b}.vdi", "memory": "32",
		"VideoMode": "720,400,0", "VRDEClients": "=0", "nic1": "none", "last": "open",
	} {
		if got, ok := info[key]; !ok || got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if info := ParseInfo([]byte("a=1\r\nb=\"2\"\r\n")); info["a"] != "1" || info["b"] != "2" {
		t.Errorf("with the line ends of Windows: %v", info)
	}
}

// quoted is how VBoxManage writes a value.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func FuzzParseInfo(f *testing.F) {
	f.Add("name", "a \"b\" \\ c\nnic1=\"nat\"", "tail=\"")
	f.Add("", "\\", "\"=\"\n=\n\"")
	f.Fuzz(func(t *testing.T, key, value, rest string) {
		// Whatever a value is, it is read back, and what comes after it neither
		// changes it nor what came before.
		text := "first=1\nvalue=" + quoted(value) + "\nnic1=\"none\"\n" + quoted(key) + "=" + quoted(value) + "\n" + rest
		info := ParseInfo([]byte(text))
		if info["first"] != "1" || info["value"] != value || info["nic1"] != "none" {
			t.Errorf("read %q from %q", info, text)
		}
		ParseInfo([]byte(rest))
		Blocks([]byte(rest))
		ParseListing([]byte(rest))
	})
}

func TestParseListing(t *testing.T) {
	const a, b, c = "5db4d966-de94-418d-bd97-842c9fadc404", "8e7d7dc3-1ad7-45f7-b12c-68f4f41579d7", "74f1a1fa-4f31-4035-8bb0-8b10de883353"
	l := ParseListing([]byte("[vms]\n\"golden\" {" + a + "}\n\"odd \" {x}\nname\" {" + b + "}\n\"<inaccessible>\" {" + c + "}\r\n\n[runningvms]\n\"golden\" {" + a + "}\n"))
	if got := slices.Sorted(maps.Keys(l.Registered)); !slices.Equal(got, []string{a, c, b}) {
		t.Errorf("registered: %v", got)
	}
	if got := slices.Sorted(maps.Keys(l.On)); !slices.Equal(got, []string{a}) {
		t.Errorf("on: %v", got)
	}
}

// TestListingOddNames: whatever the names of others are, all machines are seen,
// and those that are on.
func TestListingOddNames(t *testing.T) {
	const odd, ours, off = "5db4d966-de94-418d-bd97-842c9fadc404", "8e7d7dc3-1ad7-45f7-b12c-68f4f41579d7", "74f1a1fa-4f31-4035-8bb0-8b10de883353"
	for _, name := range []string{
		"x\n[runningvms]\n", "[runningvms]\n[runningvms]", "\n[vms]\n", "new\nline\" {" + off + "}", "quotes \" and ' and \\", "..", "\n\n",
	} {
		for _, oddOn := range []bool{false, true} {
			entry := "\"" + name + "\" {" + odd + "}\n"
			text := "[vms]\n" + entry + "\"ours\" {" + ours + "}\n\"off\" {" + off + "}\n\n[runningvms]\n"
			on := []string{ours}
			if oddOn && !strings.Contains(name, off) { // one that is on may pass off another as on
				text += entry
				on = []string{odd, ours}
			}
			l := ParseListing([]byte(text + "\"ours\" {" + ours + "}\n"))
			if got := slices.Sorted(maps.Keys(l.Registered)); !slices.Equal(got, []string{odd, off, ours}) {
				t.Errorf("beside %q there are %v", name, got)
			}
			if got := slices.Sorted(maps.Keys(l.On)); !slices.Equal(got, on) {
				t.Errorf("beside %q %v are on, want %v", name, got, on)
			}
		}
	}
}

func TestBlocks(t *testing.T) {
	blocks := Blocks([]byte(`UUID:           a4eb
Parent UUID:    base
Location:       /a/golden: one.vdi
Child UUIDs:    eedf
                0920

UUID:           eedf
UUID:           other

`))
	want := []map[string]string{
		{"UUID": "a4eb", "Parent UUID": "base", "Location": "/a/golden: one.vdi", "Child UUIDs": "eedf\n0920"},
		{"UUID": "eedf"},
	}
	if len(blocks) != 2 || !maps.Equal(blocks[0], want[0]) || !maps.Equal(blocks[1], want[1]) {
		t.Errorf("got %q", blocks)
	}
}
