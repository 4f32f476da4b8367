package vboxmanage

import (
	"context"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/providers"
)

// TestWholeMachine: what is left of a reading that ends anywhere is none, and neither is
// one that lacks what matters somewhere in between. They are VBoxManage 7.2.22's, of
// machines in several states; once VBoxSVC has told all, the guest may be missing.
func TestWholeMachine(t *testing.T) {
	needed := regexp.MustCompile(`^(VMState|nic[1-8]|uart1|"SATA-[01]-0"|CfgFile|cpus|memory|UUID|GuestMemoryBalloon)=`)
	samples, err := filepath.Glob("testdata/showvminfo-*.txt")
	if err != nil || len(samples) < 5 {
		t.Fatal(samples, err)
	}
	for _, path := range samples {
		text := read(t, path)
		whole := ParseInfo([]byte(text))
		if !wholeMachine(whole) {
			t.Fatalf("%s is not whole", path)
		}
		ofMachine := func(key string, _ string) bool { return !strings.HasPrefix(key, "Guest") }
		want := maps.Clone(whole)
		maps.DeleteFunc(want, func(k, v string) bool { return !ofMachine(k, v) })
		for n := range text {
			if n%9 > 0 && text[n] != '\n' && text[max(0, n-1)] != '\n' {
				continue
			}
			info := ParseInfo([]byte(text[:n]))
			if !wholeMachine(info) {
				continue
			}
			maps.DeleteFunc(info, func(k, v string) bool { return !ofMachine(k, v) })
			if !maps.Equal(info, want) {
				t.Errorf("%s: the first %d bytes pass for the machine", path, n)
			}
		}
		lines := strings.SplitAfter(text, "\n")
		for n, line := range lines {
			info := ParseInfo([]byte(strings.Join(lines[:n], "") + strings.Join(lines[n+1:], "")))
			if needed.MatchString(line) && wholeMachine(info) {
				t.Errorf("%s passes for the machine without %s", path, line)
			}
		}
	}
	if cut := ParseInfo([]byte(read(t, "testdata/cut-running.txt"))); wholeMachine(cut) {
		t.Error("what VBoxManage showed while VBoxSVC died, without a word, passes for the machine")
	}
	if wholeMachine(ParseInfo([]byte("name=\"<inaccessible>\"\nUUID=\"5db4d966-de94-418d-bd97-842c9fadc404\"\n"))) {
		t.Error("a machine that VirtualBox cannot read passes for one that it has read")
	}
}

// TestWholeMedium: what is left of a disk's description is none unless all is there that
// is asked for, as VBoxSVC knows it.
func TestWholeMedium(t *testing.T) {
	text := read(t, "testdata/showmediuminfo.txt")
	whole := Blocks([]byte(text))[0]
	if !wholeMedium(whole) {
		t.Fatalf("not whole: %q", whole)
	}
	last := strings.Index(text, "In use by VMs:")
	for n := range text {
		if blocks := Blocks([]byte(text[:n])); len(blocks) > 0 && wholeMedium(blocks[0]) && n < last {
			t.Errorf("the first %d bytes pass for the disk", n)
		}
	}
	// VBoxSVC died: there are sizes, and they are wrong.
	died := strings.NewReplacer("Capacity:       2 MBytes", "Capacity:       0 MBytes").Replace(text[:last])
	if wholeMedium(Blocks([]byte(died))[0]) {
		t.Error("a disk of no size passes for the disk")
	}
}

// TestWholeLists: lists that are not there to their end are none, whatever a machine is
// called.
func TestWholeLists(t *testing.T) {
	const end = "\n[screenshotformats]\nSupported 4 screen shot formats:\n    BitmapFormat_"
	const listed = "[vms]\n\"x\n[screenshotformats]\" {5db4d966-de94-418d-bd97-842c9fadc404}\n\n[runningvms]\n"
	text := listed + end + "BGR0 (0x30524742)\n"
	for n := range len(text) + 1 {
		got, whole := cutLast([]byte(text[:n]))
		if whole != (n >= len(listed+end)) || whole && string(got) != listed+"\n" {
			t.Errorf("of %q: %q, %v", text[:n], got, whole)
		}
	}
	c, dir := program(t, `echo "$*" >args; printf '`+strings.ReplaceAll(text, "\n", `\n`)+`'`)
	out, err := c.List(context.Background(), "x", "vms", "runningvms")
	if err != nil || string(out) != listed+"\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if got := read(t, dir+"/args"); got != "list --multiple vms runningvms screenshotformats\n" {
		t.Errorf("asked %q", got)
	}
	if _, err := c.ListLong(context.Background(), "x", "hdds"); err != nil || !strings.HasPrefix(read(t, dir+"/args"), "list --long --multiple hdds ") {
		t.Errorf("asked %q, %v", read(t, dir+"/args"), err)
	}
}

// TestCutReading: VBoxManage that ends with 0 in the middle is asked again, and what it
// said is none; so is one that has said all and complains, and one that crashed.
func TestCutReading(t *testing.T) {
	whole, err := filepath.Abs("testdata/showvminfo-running.txt")
	if err != nil {
		t.Fatal(err)
	}
	const aborted = `echo 'VBoxManage: error: Code NS_ERROR_ABORT (0x80004004) - Operation aborted (extended info not available)' >&2`
	c, dir := program(t, `echo >>tries
case $(wc -l <tries) in
1) head -n 60 `+whole+` ;;
2) head -n 60 `+whole+`; `+aborted+` ;;
3) cat `+whole+`; `+aborted+` ;;
4) head -n 60 `+whole+`; `+aborted+`; exit 1 ;;
5) kill -TRAP $$ ;;
*) cat `+whole+` ;;
esac`)
	info, err := c.Show(context.Background(), "x", "a")
	if err != nil || info["VMState"] != "running" || info["nic8"] != "none" {
		t.Errorf("got %q, %v", info, err)
	}
	if n := strings.Count(read(t, dir+"/tries"), "\n"); n != 6 {
		t.Errorf("%d tries", n)
	}
	f := newFailure([]string{"showvminfo", "a"}, 0, nil)
	f.Cut = true
	if err := c.explain(context.Background(), Call{Object: "x"}, 0, f); !errors.Is(err, providers.ErrUnavailable) || errors.Is(err, providers.ErrDown) {
		t.Errorf("got %v", err)
	}
	if lost := newFailure([]string{"startvm", "a"}, -1, []byte("VBoxManage: error: Code NS_ERROR_ABORT (0x80004004)")); lost.momentary() {
		t.Error("a change that nobody knows the outcome of is made again")
	}
}

// TestBounded: no more is kept of an output than that.
func TestBounded(t *testing.T) {
	var b bounded
	if n, err := io.Copy(&b, strings.NewReader(strings.Repeat("x", maxOutput+1))); n != maxOutput+1 || err != nil || len(b.Bytes()) != maxOutput {
		t.Errorf("kept %d of %d, %v", len(b.Bytes()), n, err)
	}
	b = bounded{}
	if n, err := io.Copy(&b, struct{ io.Reader }{strings.NewReader(strings.Repeat("x", maxOutput+1))}); n != maxOutput+1 || err != nil || len(b.Bytes()) != maxOutput {
		t.Errorf("kept %d of %d, %v", len(b.Bytes()), n, err)
	}
}
