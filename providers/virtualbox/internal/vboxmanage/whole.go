package vboxmanage

import (
	"bytes"
	"context"
	"regexp"
	"strconv"
	"strings"
)

// What VBoxManage shows is a reading of VirtualBox only when it is whole. When
// VBoxSVC dies under it, VBoxManage goes on and leaves out, or prints as empty, what
// it is not told any more, and may well end with 0; of a machine that is on it does
// so always. What is missing then is not absent, and what is empty is not so.
//
//	asked, in this order ──▶ all that the caller wants to know
//	                         the last thing, which VBoxSVC always tells
//
// VBoxManage does not find another VBoxSVC once it has lost one. So whoever has the
// last thing has all that came before it.

// cards is how many network cards a machine has at least, on or off.
const cards = 8

// lastOfMachine is what `showvminfo --machinereadable` prints last of what VBoxSVC
// knows of a machine; after it, a running one's process is asked for its guest.
const lastOfMachine = "GuestMemoryBalloon"

// Show asks about a machine, by its UUID or its name.
func (c *Client) Show(ctx context.Context, object, machine string) (Info, error) {
	var info Info
	_, err := c.Run(ctx, Call{
		Object: object, VM: machine, Args: []string{"showvminfo", machine, "--machinereadable"},
		whole: func(out Output) bool {
			info = ParseInfo(out.Stdout)
			return !complains(out.Stderr) && wholeMachine(info)
		},
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// complains tells whether VBoxManage said that something failed.
func complains(stderr []byte) bool { return bytes.Contains(stderr, []byte("VBoxManage: error:")) }

// wholeMachine tells whether all is there that every machine has.
func wholeMachine(info Info) bool {
	keys := []string{"name", "UUID", "CfgFile", "memory", "cpus", "VMState", "VMStateChangeTime", "uart1", lastOfMachine}
	for n := 1; n <= cards; n++ {
		keys = append(keys, "nic"+strconv.Itoa(n))
	}
	for _, key := range keys {
		if info[key] == "" {
			return false
		}
	}
	for n := 0; ; n++ {
		name, is := info["storagecontrollername"+strconv.Itoa(n)]
		if !is {
			return true
		}
		ports, _ := strconv.Atoi(info["storagecontrollerportcount"+strconv.Itoa(n)])
		for port := range ports {
			if _, told := info[name+"-"+strconv.Itoa(port)+"-0"]; !told {
				return false
			}
		}
	}
}

// Medium asks about a disk that a machine uses, by its UUID. vm is the machine whose
// turn it takes; empty for none.
func (c *Client) Medium(ctx context.Context, object, vm, disk string) (map[string]string, error) {
	var medium map[string]string
	_, err := c.Run(ctx, Call{
		Object: object, VM: vm, Args: []string{"showmediuminfo", "disk", disk},
		whole: func(out Output) bool {
			blocks := Blocks(out.Stdout)
			if len(blocks) == 0 || complains(out.Stderr) || !wholeMedium(blocks[0]) {
				return false
			}
			medium = blocks[0]
			return true
		},
	})
	return medium, err
}

// wholeMedium tells whether all is there that a disk has which a machine uses. The
// machines come last; sizes of 0 and no encryption are what VBoxManage prints when it
// does not know.
func wholeMedium(medium map[string]string) bool {
	for _, key := range []string{"UUID", "Parent UUID", "Location", "Storage format", "Capacity", "In use by VMs"} {
		if medium[key] == "" {
			return false
		}
	}
	return true
}

// lastList is asked for last: it is short, changes nothing, and is never empty.
const lastList = "screenshotformats"

var endOfLists = regexp.MustCompile(`(?m)^\[` + lastList + `\]\r?\n[^\n]*\n +BitmapFormat_`)

// List asks for lists, such as vms and hdds. Each begins with a line [NAME].
func (c *Client) List(ctx context.Context, object string, lists ...string) ([]byte, error) {
	return c.list(ctx, object, []string{"list", "--multiple"}, lists)
}

// ListLong is List with all details.
func (c *Client) ListLong(ctx context.Context, object string, lists ...string) ([]byte, error) {
	return c.list(ctx, object, []string{"list", "--long", "--multiple"}, lists)
}

// list does not mind complaints: of machines that are inaccessible the reasons are
// listed as such.
func (c *Client) list(ctx context.Context, object string, args, lists []string) ([]byte, error) {
	var listed []byte
	_, err := c.Run(ctx, Call{
		Object: object, Args: append(append(args, lists...), lastList),
		whole: func(out Output) (whole bool) {
			listed, whole = cutLast(out.Stdout)
			return whole
		},
	})
	if err != nil {
		return nil, err
	}
	return listed, nil
}

// cutLast parts lists from the last one; false when they do not end with it. Others may
// have called a machine so.
func cutLast(b []byte) ([]byte, bool) {
	ends := endOfLists.FindAllIndex(b, -1)
	if len(ends) == 0 {
		return nil, false
	}
	return b[:ends[len(ends)-1][0]], true
}

// listedBy is the first list that a call asks for, for messages.
func listedBy(args []string) string {
	for _, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			return arg
		}
	}
	return ""
}
