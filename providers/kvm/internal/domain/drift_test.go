package domain

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// changed is the machine's XML with texts replaced, each of which must be in it.
func changed(t *testing.T, text string, pairs ...string) *Outline {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		after := strings.Replace(text, pairs[i], pairs[i+1], 1)
		if after == text {
			t.Fatalf("%q is not in %s", pairs[i], text)
		}
		text = after
	}
	live, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return &live.Outline
}

// said is a drift on one line.
func said(list []providers.Drift) []string {
	var lines []string
	for _, d := range list {
		lines = append(lines, fmt.Sprintf("%s %s: %s", d.Reason, d.Remedy, d.Detail))
	}
	return lines
}

// added is what libvirt adds to a machine by itself.
var added = []string{
	`<serial type="pty">`, `<serial type="pty"><source path="/dev/pts/7"/>`,
	"<devices>", `<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type="pci" index="0" model="pci-root"/>
<input type="mouse" bus="ps2"/><input type="keyboard" bus="ps2"/><audio id="1" type="none"/><watchdog model="itco" action="reset"/>
<controller type="virtio-serial" index="0"/><controller type="ide" index="0"/>`,
	`machine="pc"`, `machine="pc-i440fx-7.2"`,
	`<vcpu>2</vcpu>`, `<currentMemory unit="KiB">262144</currentMemory><vcpu placement="static">2</vcpu>`,
	`<source file="/data/seed.iso">`, `<source file="/data/seed.iso" index="1">`,
}

// fileConsole makes a serial console the file that it was before it could be typed at.
var fileConsole = []string{
	`<serial type="pty">
      <target port="0"></target>
      <log file="/data/console.log" append="on"></log>`, `<serial type="file">
      <source path="/data/console.log" append="on"></source>
      <target port="0"></target>`,
	`<console type="pty">
      <target type="serial" port="0"></target>
      <log file="/data/console.log" append="on"></log>`, `<console type="file">
      <source path="/data/console.log" append="on"></source>
      <target type="serial" port="0"></target>`,
}

func TestDrift(t *testing.T) {
	s := spec(v1.NetworkNAT)
	text := build(t, s)
	want := s.Record
	want.Made = madeOf(s)
	old := s.Record
	discards := want
	discards.DiscardOnStop = true
	card := "<interface type=\"network\">"
	const other = "/others/disk.qcow2"
	swapped := []string{"/data/disk.qcow2", other}
	type pairs = []string
	for name, tc := range map[string]struct {
		record        Record
		live, defined pairs // nil: not on, and as it was made
		on, saved     bool
		lost          bool // the definition is not ours
		undefined     bool
		files         DiskFiles
		want          []string
	}{
		"untouched, off":                {},
		"untouched, on":                 {on: true},
		"untouched, with what is added": {on: true, live: added, defined: added},
		"made by an older release":      {record: old, on: true, live: added},
		"memory, off":                   {defined: pairs{">262144<", ">524288<"}, want: pairs{"DefinitionChanged Ensure: its memory is 512 MiB, and was made as 256 MiB"}},
		"memory, odd":                   {defined: pairs{">262144<", ">263000<"}, want: pairs{"DefinitionChanged Ensure: its memory is 263000 KiB, and was made as 256 MiB"}},
		"memory, rounded":               {on: true, live: pairs{">262144<", ">261632<"}},
		"memory, at the next start":     {on: true, defined: pairs{">262144<", ">524288<"}, want: pairs{"DefinitionChanged Ensure: for its next start, its memory is 512 MiB, and was made as 256 MiB"}},
		"memory, both":                  {on: true, live: pairs{">262144<", ">524288<"}, defined: pairs{">262144<", ">524288<"}, want: pairs{"DefinitionChanged Off: its memory is 512 MiB, and was made as 256 MiB"}},
		"memory, saved":                 {saved: true, defined: pairs{">262144<", ">524288<"}, want: pairs{"DefinitionChanged Ensure: for its next start, its memory is 512 MiB, and was made as 256 MiB"}},
		"memory, nobody knows of what":  {record: old, defined: pairs{">262144<", ">524288<"}},
		"cpus, by hand unplugged":       {on: true, live: pairs{"<vcpu>2", `<vcpu current="1">2`}, want: pairs{"DefinitionChanged Off: its number of CPUs is 1, and was made as 2"}},
		"cpus, to be plugged":           {defined: pairs{"<vcpu>2", `<vcpu current="2">4`}, want: pairs{"DefinitionChanged Ensure: it may be given 4 CPUs, and was made with 2"}},
		"accelerator":                   {defined: pairs{`<domain type="qemu">`, `<domain type="kvm">`}, want: pairs{`DefinitionChanged Ensure: its kind of virtualization is "kvm", and was made as "qemu"`}},
		"boot":                          {defined: pairs{`<boot dev="hd">`, `<boot dev="network">`}, want: pairs{`DefinitionChanged Ensure: it boots "by BIOS from network", and was made as "by BIOS from hd"`}},
		"kernel":                        {defined: pairs{`<boot dev="hd">`, `<kernel>/k</kernel><boot dev="hd">`}, want: pairs{`DefinitionChanged Ensure: it boots "by BIOS from hd kernel /k", and was made as "by BIOS from hd"`}},
		"name":                          {defined: pairs{"<name>team.web.6253d238", "<name>other"}, want: pairs{`DefinitionChanged Ensure: its name is "other", and was made as "team.web.6253d238"`}},
		"name, on": {on: true, live: pairs{"<name>team.web.6253d238", "<name>other"}, defined: pairs{"<name>team.web.6253d238", "<name>other", ">262144<", ">524288<"}, want: pairs{
			`DefinitionChanged Off: its name is "other", and was made as "team.web.6253d238"`,
			"DefinitionChanged Off: for its next start, its memory is 512 MiB, and was made as 256 MiB",
		}},
		"record, on":         {on: true, lost: true, want: pairs{"DefinitionChanged Ensure: for its next start, it has no record of sandboxd's"}},
		"disk":               {defined: swapped, want: pairs{`DiskChanged Ensure: its drive vda is "/others/disk.qcow2", and was made as "/data/disk.qcow2"`}},
		"disk, on":           {on: true, live: swapped, defined: swapped, want: pairs{`DiskChanged Off: its drive vda is "/others/disk.qcow2", and was made as "/data/disk.qcow2"`}},
		"disk, older":        {record: old, defined: swapped, want: pairs{`DiskChanged Ensure: its drive vda is "/others/disk.qcow2", and was made as "/data/disk.qcow2"`}},
		"disk, older, saved": {record: old, saved: true, defined: swapped, want: pairs{`DiskChanged Off: for its next start, its drive vda is "/others/disk.qcow2", and was made as "/data/disk.qcow2"`}},
		"overlay": {on: true, live: swapped, defined: swapped, files: DiskFiles{Overlays: pairs{other}}, want: pairs{
			`ForeignSnapshots None: others have laid the file "/others/disk.qcow2" upon its disk, which has what the guest wrote since`,
		}},
		"overlay of no worth": {record: discards, defined: swapped, files: DiskFiles{Overlays: pairs{other}, Snapshots: 2}, want: pairs{
			`DiskChanged Ensure: its drive vda is "/others/disk.qcow2", and was made as "/data/disk.qcow2"`,
		}},
		"snapshots":               {files: DiskFiles{Snapshots: 2}, want: pairs{"ForeignSnapshots None: its disk holds snapshots that others took: 2"}},
		"lost":                    {files: DiskFiles{Lost: "/data/disk.qcow2"}, want: pairs{`DiskLost None: the file "/data/disk.qcow2" is gone, which its disk needs`}},
		"lost of no worth":        {record: discards, files: DiskFiles{Lost: "/data/disk.qcow2"}, want: pairs{`DiskLost Ensure: its disk "/data/disk.qcow2" is gone`}},
		"lost, runs on":           {record: discards, on: true, files: DiskFiles{Lost: "/data/disk.qcow2"}, want: pairs{`DiskLost Off: its disk "/data/disk.qcow2" is gone`}},
		"lost layer of no worth":  {record: discards, files: DiskFiles{Lost: "/data/layer.qcow2"}, want: pairs{`DiskLost Ensure: the file "/data/layer.qcow2" is gone, which its disk needs`}},
		"damaged, of no worth":    {record: discards, files: DiskFiles{Damaged: "it is"}, want: pairs{"DiskChanged Ensure: it is"}},
		"damaged, runs on":        {record: discards, on: true, files: DiskFiles{Damaged: "it is"}, want: pairs{"DiskChanged Off: it is"}},
		"damaged below":           {record: discards, files: DiskFiles{Damaged: "it is", Base: true}, want: pairs{"DiskChanged None: it is"}},
		"lost below":              {record: discards, files: DiskFiles{Lost: "/data/base.qcow2", Base: true}, want: pairs{`DiskLost None: the file "/data/base.qcow2" is gone, which its disk needs`}},
		"damaged":                 {files: DiskFiles{Damaged: "it lies on\n" + strings.Repeat("x", 1000)}, want: pairs{"DiskChanged None: it lies on?" + strings.Repeat("x", 139) + "..." + strings.Repeat("x", 150)}},
		"seed":                    {defined: pairs{"/data/seed.iso", "/x.iso"}, want: pairs{`DefinitionChanged Ensure: its drive vdb is "/x.iso", and was made as "/data/seed.iso"`}},
		"seed, writable":          {defined: pairs{"<readonly></readonly>\n      <serial>", "<serial>"}, want: pairs{"DefinitionChanged Ensure: its drive vdb is connected in another way than it was made"}},
		"another disk":            {on: true, live: pairs{"<devices>", `<devices><disk type="block"><source dev="/dev/sdx"/><target dev="vdc"/></disk>`}, want: pairs{`DefinitionChanged PowerOff: it has the drive "vdc" with "/dev/sdx", which sandboxd did not give it`}},
		"another disk, older":     {record: old, on: true, live: pairs{"<devices>", `<devices><disk type="file"><source file="/srv/other.qcow2"/><target dev="vdc"/></disk>`}, want: pairs{`DefinitionChanged PowerOff: it has the drive "vdc" with "/srv/other.qcow2", which sandboxd did not give it`}},
		"another disk, defined":   {defined: pairs{"<devices>", `<devices><disk type="block"><source dev="/dev/sdx"/><target dev="vdc"/></disk>`}, want: pairs{`DefinitionChanged Ensure: it has the drive "vdc" with "/dev/sdx", which sandboxd did not give it`}},
		"another disk of its own": {on: true, live: pairs{"<devices>", `<devices><disk type="file"><source file="/data/install.iso"/><target dev="sda"/></disk>`}, want: pairs{`DefinitionChanged Off: it has the drive "sda" with "/data/install.iso", which sandboxd did not give it`}},
		"an installer's, older":   {record: old, on: true, live: pairs{"<devices>", `<devices><disk type="file" device="cdrom"><source file="/data/install.iso"/><target dev="sda"/></disk>`}},
		"disk of the host, on":    {record: old, on: true, live: pairs{`<source file="/data/disk.qcow2">`, `<source dev="/dev/sdx">`, `<disk type="file"`, `<disk type="block"`}, want: pairs{`DiskChanged PowerOff: its drive vda is "/dev/sdx", and was made as "/data/disk.qcow2"`}},
		"card moved, defined":     {defined: pairs{`network="sandboxd-instance-nat"`, `network="default"`}, want: pairs{`NetworkChanged Ensure: its network card is on "network default", and was made to be on "network sandboxd-instance-nat"`}},
		"card moved, live":        {on: true, live: pairs{`network="sandboxd-instance-nat"`, `network="default"`}, want: pairs{`NetworkChanged PowerOff: its network card is on "network default", and was made to be on "network sandboxd-instance-nat"`}},
		"card moved, older":       {record: old, on: true, live: pairs{`network="sandboxd-instance-nat"`, `network="default"`}, want: pairs{`NetworkChanged PowerOff: its network card is on "network default", and was made to be on "network sandboxd-instance-nat"`}},
		"card added":              {on: true, live: pairs{card, `<interface type="user"></interface>` + card}, want: pairs{`NetworkChanged PowerOff: it has a network card on "something that is no network", which sandboxd did not give it`}},
		"card not isolated":       {on: true, live: pairs{`<port isolated="yes"></port>`, ""}, want: pairs{"NetworkChanged PowerOff: its network card is not isolated from those of other machines"}},
		"card with its link down": {on: true, live: pairs{card, card + `<link state="down"/>`}, want: pairs{"NetworkChanged Off: its network card has its link down"}},
		"card with a filter":      {on: true, live: pairs{card, card + `<filterref filter="clean-traffic"/>`}, want: pairs{`NetworkChanged Off: its network card has the network filter "clean-traffic"`}},
		"share":                   {on: true, live: pairs{"<devices>", `<devices><filesystem><source dir="/etc"/><target dir="x"/></filesystem>`}, want: pairs{`DefinitionChanged PowerOff: it shares "/etc" of the host, which sandboxd did not give it`}},
		"share, writable":         {defined: pairs{"<readonly></readonly>\n    </filesystem>", "</filesystem>"}, want: pairs{`DefinitionChanged Ensure: its shared folder "in" is read-only: false, and was made so: true`}},
		"share of another":        {defined: pairs{`dir="/srv/out"`, `dir="/srv"`}, want: pairs{`DefinitionChanged Ensure: its shared folder "out" is "/srv", and was made as "/srv/out"`}},
		"hostdev":                 {record: old, on: true, live: pairs{"<devices>", `<devices><hostdev mode="subsystem" type="usb"><source/></hostdev>`}, want: pairs{"DefinitionChanged PowerOff: it has a device of the host, which sandboxd did not give it"}},
		"sound":                   {defined: pairs{"<devices>", `<devices><sound model="ac97"/><audio id="1" type="none"/>`}, want: pairs{"DefinitionChanged Ensure: it has a sound card, which sandboxd did not give it"}},
		"usb":                     {defined: pairs{`<controller type="usb" model="none">`, `<controller type="usb">`}, want: pairs{"DefinitionChanged Ensure: it has a USB controller, which sandboxd did not give it"}},
		"tablet":                  {defined: pairs{"<devices>", `<devices><input type="tablet" bus="virtio"/>`}, want: pairs{"DefinitionChanged Ensure: it has an input device, which sandboxd did not give it"}},
		"another line":            {on: true, live: pairs{"<devices>", `<devices><serial type="tcp"><source mode="connect" host="192.0.2.1" service="1"/></serial>`}, want: pairs{"DefinitionChanged PowerOff: it has a line to something else, which sandboxd did not give it"}},
		"console elsewhere": {defined: pairs{`<log file="/data/console.log" append="on">`, `<log file="/x">`}, want: pairs{
			`DefinitionChanged Ensure: it has a serial port to "/x", which sandboxd did not give it`, `DefinitionChanged Ensure: it lacks a serial port to "/data/console.log"`,
		}},
		"console of an earlier release":                            {on: true, live: fileConsole, defined: fileConsole},
		"console of an earlier release, changed at its next start": {on: true, live: fileConsole},
		"console elsewhere, of an earlier release": {defined: append(slices.Clone(fileConsole), `<source path="/data/console.log" append="on">`, `<source path="/x">`), want: pairs{
			`DefinitionChanged Ensure: it has a serial port to "/x", which sandboxd did not give it`, `DefinitionChanged Ensure: it lacks a serial port to "/data/console.log"`,
		}},
		"defined no more": {on: true, undefined: true, want: pairs{"DefinitionChanged Ensure: its definition was removed, and it runs on without one"}},
		"console without a log": {defined: pairs{`<log file="/data/console.log" append="on"></log>`, ""}, want: pairs{
			"DefinitionChanged Ensure: it has a serial port, which sandboxd did not give it", `DefinitionChanged Ensure: it lacks a serial port to "/data/console.log"`,
		}},
		"no agent": {defined: pairs{AgentChannel, "another"}, want: pairs{
			"DefinitionChanged Ensure: it has a line to something else, which sandboxd did not give it", "DefinitionChanged Ensure: it lacks a channel for its agent",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			sight := Sight{Saved: tc.saved, Files: tc.files, Defined: changed(t, text, tc.defined...)}
			record := tc.record
			if record.Owner == "" {
				record = want
			}
			sight.Want = record.Spec()
			sight.Want.Disk, sight.Want.Seed, sight.Want.Console = s.Disk, s.Seed, s.Console
			if tc.on {
				sight.Live = changed(t, text, tc.live...)
			}
			if tc.lost || tc.undefined {
				sight.Defined, sight.Undefined = nil, tc.undefined
			}
			got := Drift(sight)
			if diff := cmp.Diff(tc.want, said(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, d := range got {
				if (d.Remedy == providers.RemedyNone) != (d.Advice != "") {
					t.Errorf("%+v: the advice is of no use, or missing", d)
				}
			}
		})
	}
}

// TestAdviceHelps: nobody is told to begin anew from what is gone.
func TestAdviceHelps(t *testing.T) {
	s := spec(v1.NetworkNone)
	installed := s
	installed.Image = providers.ImageRef{}
	for name, tc := range map[string]struct {
		want         Spec
		base         bool
		golden, snap bool
	}{
		"its disk":                 {want: s, golden: true, snap: true},
		"its image":                {want: s, base: true},
		"a disk with no image":     {want: installed, snap: true},
		"what no image lies under": {want: installed, base: true},
	} {
		for _, f := range []DiskFiles{{Lost: "/data/x", Base: tc.base}, {Damaged: "it is", Base: tc.base}} {
			advice := Sight{Want: tc.want, Files: f}.files()[0].Advice
			if strings.Contains(advice, "golden") != tc.golden || strings.Contains(advice, "snapshot") != tc.snap || !strings.Contains(advice, "delete") {
				t.Errorf("%s: %s", name, advice)
			}
		}
	}
}

// TestEveryMachineIsAsMade: what Build writes is no drift, of any kind of machine.
func TestEveryMachineIsAsMade(t *testing.T) {
	install := spec(v1.NetworkNAT)
	install.Installer = &Installer{ISO: "/data/install.iso", Kernel: "/data/kernel", Initrd: "/data/initrd", Cmdline: "auto"}
	efi := spec(v1.NetworkHostOnly)
	efi.Firmware, efi.Accelerator = v1.FirmwareEFI, KVM
	macvtap := spec(v1.NetworkBridged)
	macvtap.LinkIsBridge = false
	for name, s := range map[string]Spec{
		"none": spec(v1.NetworkNone), "intnet": spec(v1.NetworkIntnet), "bridged": spec(v1.NetworkBridged),
		"install": install, "efi": efi, "macvtap": macvtap,
	} {
		live, err := Parse(build(t, s))
		if err != nil {
			t.Fatal(err)
		}
		record := live.Record
		for _, made := range []*Made{record.Made, nil} { // as an older release made it
			record.Made = made
			want := record.Spec()
			want.Disk, want.Seed, want.Console = s.Disk, s.Seed, s.Console
			if got := Drift(Sight{Want: want, Live: &live.Outline, Defined: &live.Outline}); len(got) > 0 {
				t.Errorf("%s: %+v", name, got)
			}
		}
	}
}

// TestDriftIsBounded: names that others chose do not fill anybody's screen.
func TestDriftIsBounded(t *testing.T) {
	s := spec(v1.NetworkNone)
	var disks strings.Builder
	for i := range 100 {
		fmt.Fprintf(&disks, `<disk type="file"><source file="%s"/><target dev="vd%c%c"/></disk>`, strings.Repeat("/é\u202e", 500), 'b'+i/20, 'a'+i%20)
	}
	record := s.Record
	record.Made = madeOf(s)
	got := Drift(Sight{Want: record.Spec(), Defined: changed(t, build(t, s), "<devices>", "<devices>"+disks.String())})
	if len(got) != maxDrifts {
		t.Errorf("%d drifts", len(got))
	}
	for _, d := range got {
		if len(d.Detail) > 1000 || strings.ContainsFunc(d.Detail, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q", d.Detail)
		}
	}
	sight := Sight{Want: record.Spec(), Files: DiskFiles{Snapshots: 1}}
	sight.Want.Disk = "/data/disk.qcow2"
	sight.Live = changed(t, build(t, s), "<devices>", "<devices>"+strings.ReplaceAll(disks.String(), strings.Repeat("/é\u202e", 500), "/data/x")+`<hostdev mode="subsystem" type="usb"><source/></hostdev>`)
	worst := Drift(sight)
	if len(worst) != maxDrifts || worst[0].Remedy != providers.RemedyPowerOff || worst[1].Remedy != providers.RemedyNone {
		t.Errorf("what does harm is left out: %v", said(worst))
	}
	if word("/a/b-c.qcow2") != "/a/b-c.qcow2" || word("/a b/it's") != `'/a b/it'\''s'` {
		t.Errorf("%s %s", word("/a/b-c.qcow2"), word("/a b/it's"))
	}
}
