//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestDisk changes files in a guest, stops it, and finds exactly these changes on its
// disk; artifacts come out of it without the guest's help.
func TestDisk(t *testing.T) {
	h := newHost(t)
	artifacts := fmt.Sprintf(", artifacts: [{name: out, path: /tree, hostPath: %s}]", h.path("share"))
	h.apply(image+sandbox("web", artifacts), "--wait", "--timeout", "12m")
	if r := h.run("", "diff-disk", "web"); r.code != 2 || !strings.Contains(r.err, "stop or suspend it first") {
		t.Errorf("of a running sandbox: %+v", r)
	}
	h.apply(sandbox("web", ", powerState: Stopped"+artifacts), "--wait", "--timeout", "12m")
	quiet := h.run("", "diff-disk", "web") // what a boot by itself changes
	t.Logf("a boot changes:\n%s%s", quiet.out, quiet.err)

	h.apply(sandbox("web", artifacts), "--wait", "--timeout", "12m")
	h.ok("exec", "web", "--", "sh", "-c", "mkdir /tree && cd /tree && echo text > new && ln -s new link && dd if=/dev/zero of=large bs=1M count=3 2>/dev/null"+
		" && chmod 600 /etc/group && rm /etc/shadow && printf x >> /etc/passwd && chown 12:34 /root && sync")
	h.apply(sandbox("web", ", powerState: Stopped"+artifacts), "--wait", "--timeout", "12m")
	r := h.run("", "diff-disk", "web")
	if r.code != 1 || r.err != "" {
		t.Errorf("%+v", r)
	}
	names := func(out string) (list []string) {
		for line := range strings.Lines(out) {
			fields := strings.Fields(line)
			list = append(list, fields[0]+" "+fields[4])
		}
		return list
	}
	before := names(quiet.out)
	got := slices.DeleteFunc(names(r.out), func(s string) bool { return slices.Contains(before, s) })
	want := []string{"M /etc/group", "M /etc/passwd", "D /etc/shadow", "M /root", "A /tree", "A /tree/large", "A /tree/link", "A /tree/new"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant %q", r.out, want)
	}
	if r := h.run("", "diff-disk", "web", "--content", "/etc/passwd"); r.code != 1 || !strings.Contains(r.out, "\n+") {
		t.Errorf("content: %+v", r)
	}
	h.ok("cp", "web:/tree", "work")
	if raw, err := os.ReadFile(h.path("work/new")); err != nil || string(raw) != "text\n" {
		t.Errorf("copied out of the disk: %q, %v", raw, err)
	}
	if info, err := os.Stat(h.path("share/default.web.out.tar")); err != nil || info.Size() < 3<<20 {
		t.Errorf("the artifact: %v, %v", info, err)
	}
	if message := h.field("web", ".status.artifacts[0].message"); message != "" {
		t.Errorf("the artifact: %s", message)
	}

	// One that is deleted while it runs is shut down first.
	h.apply(sandbox("web", artifacts), "--wait", "--timeout", "12m")
	h.ok("exec", "web", "--", "sh", "-c", "echo last > /tree/last")
	must(t, os.Remove(h.path("share/default.web.out.tar")))
	h.ok("delete", "sandbox", "web", "--timeout", "12m")
	if raw, err := os.ReadFile(h.path("share/default.web.out.tar")); err != nil || !strings.Contains(string(raw), "last\n") {
		t.Errorf("the artifact of a deleted sandbox has %d bytes, %v", len(raw), err)
	}
	h.ok("delete", "goldenimage", "tiny")
	h.cleanedUp()
	h.stop()
}
