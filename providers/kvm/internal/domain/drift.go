package domain

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// Sight is everything that is looked at to find out whether others changed a
// machine.
//
//	record ──Spec──▶ what sandboxd would define ──┬── live     what runs, if it is on
//	                                              └── defined  what it starts with next
//	files: what its disk lies on
type Sight struct {
	// Want is what the machine was defined from, with its files.
	Want Spec
	// Live is what runs; nil while nothing does.
	Live *Outline
	// Defined is what libvirt would start; nil when that is not ours any more.
	Defined *Outline
	// Undefined: libvirt would start nothing, because somebody removed what it would.
	Undefined bool
	// Saved: its state is saved, and goes on with what was live then.
	Saved bool
	Files DiskFiles
}

// DiskFiles is what was seen of the files that a machine's disk consists of.
type DiskFiles struct {
	// Lost is a file that is gone.
	Lost string
	// Damaged says what is wrong with the disk, so that it cannot be used.
	Damaged string
	// Base: what is lost or damaged is what a fresh disk would lie on, too.
	Base bool
	// Snapshots that others keep inside the disk.
	Snapshots int
	// Overlays are files that others have laid upon the disk.
	Overlays []string
}

const (
	// maxDrifts bounds what is told of one machine.
	maxDrifts = 16
	// maxShown bounds what is told of one name that others chose, in characters, and
	// maxCause what is told of what is wrong with a file.
	maxShown = 140
	maxCause = 300
)

// Drift tells what others have changed of a machine.
func Drift(s Sight) []providers.Drift {
	list := s.files()
	wanted := outline(definition(s.Want))
	var live, defined []difference
	if s.Live != nil {
		live = s.compare(wanted, *s.Live, true)
	}
	switch {
	case s.Undefined:
		list = append(list, providers.Drift{
			Reason: v1.ReasonDefinitionChanged, Detail: "its definition was removed, and it runs on without one", Remedy: s.remedy(),
		})
	case s.Defined == nil:
		defined = []difference{{reason: v1.ReasonDefinitionChanged, detail: "it has no record of sandboxd's"}}
	default:
		defined = s.compare(wanted, *s.Defined, false)
	}
	for _, d := range live {
		list = append(list, d.drift(providers.RemedyOff))
	}
	for _, d := range defined {
		if slices.ContainsFunc(live, func(l difference) bool { return l.detail == d.detail }) {
			continue
		}
		if s.Live != nil || s.Saved {
			d.detail = "for its next start, " + d.detail
		}
		list = append(list, providers.Drift{Reason: d.reason, Detail: d.detail, Remedy: s.remedy()}) // nothing runs with it
	}
	return bounded(list)
}

// remedy of what is wrong with the definition alone.
func (s Sight) remedy() providers.Remedy {
	if (s.Live != nil || s.Saved) && !s.Redefinable() {
		return providers.RemedyOff
	}
	return providers.RemedyEnsure
}

// bounded leaves out what is too much, and of that first what does the least harm.
func bounded(list []providers.Drift) []providers.Drift {
	if len(list) <= maxDrifts {
		return list
	}
	order := []providers.Remedy{providers.RemedyPowerOff, providers.RemedyNone}
	rank := func(d providers.Drift) int {
		if i := slices.Index(order, d.Remedy); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(list, func(a, b providers.Drift) int { return rank(a) - rank(b) })
	return list[:maxDrifts]
}

// Redefinable tells whether the definition can be put right while the machine is
// on or saved: all that it was made with is known, and it has its name.
func (s Sight) Redefinable() bool {
	name := s.Want.domainName()
	return s.Want.Record.known() && (s.Live == nil || s.Live.Name == name) && (s.Defined == nil || s.Defined.Name == name)
}

// files tells what others have done to the files of the disk. What a machine that
// discards its disk has there is of no worth to anybody.
func (s Sight) files() []providers.Drift {
	var list []providers.Drift
	id, discards := string(s.Want.ID), s.Want.Record.DiscardOnStop
	switch f := s.Files; {
	case f.Lost != "" && f.Lost == s.Want.Disk && discards:
		list = append(list, s.ruin(v1.ReasonDiskLost, "its disk "+shown(f.Lost)+" is gone"))
	case f.Lost != "":
		list = append(list, s.ruin(v1.ReasonDiskLost, "the file "+shown(f.Lost)+" is gone, which its disk needs"))
	case f.Damaged != "":
		list = append(list, s.ruin(v1.ReasonDiskChanged, clip(f.Damaged, maxCause)))
	}
	if discards {
		return list
	}
	for _, path := range s.Files.Overlays {
		list = append(list, providers.Drift{
			Reason: v1.ReasonForeignSnapshots, Remedy: providers.RemedyNone,
			Detail: "others have laid the file " + shown(path) + " upon its disk, which has what the guest wrote since",
			Advice: "run virsh blockcommit " + id + " " + rootDisk + " --base " + word(s.Want.Disk) + " --active --pivot while it runs, or delete the sandbox",
		})
	}
	if n := s.Files.Snapshots; n > 0 {
		list = append(list, providers.Drift{
			Reason: v1.ReasonForeignSnapshots, Remedy: providers.RemedyNone,
			Detail: fmt.Sprintf("its disk holds snapshots that others took: %d", n),
			Advice: "run virsh snapshot-delete " + id + " for each that virsh snapshot-list " + id + " names, or delete the sandbox",
		})
	}
	return list
}

// ruin is that a file is lost or damaged, with what helps: a fresh disk does unless
// that would lie on the same file, or on nothing, because it was installed.
func (s Sight) ruin(reason, detail string) providers.Drift {
	d := providers.Drift{Reason: reason, Detail: detail, Remedy: providers.RemedyNone}
	switch golden := s.Want.Image != (providers.ImageRef{}); {
	case s.Files.Base:
		d.Advice = "put the file back, or delete the sandbox"
	case golden && s.Want.Record.DiscardOnStop && (s.Live != nil || s.Saved):
		d.Remedy = providers.RemedyOff
	case golden && s.Want.Record.DiscardOnStop:
		d.Remedy = providers.RemedyEnsure
	case golden:
		d.Advice = "put the file back, revert the sandbox (to a snapshot, or golden), or delete it"
	default:
		d.Advice = "put the file back, revert the sandbox to a snapshot, or delete it"
	}
	return d
}

// difference is one way in which a domain is not what it was made as.
type difference struct {
	reason, detail string
	// out: the machine reaches outside by it as it should not.
	out bool
}

func (d difference) drift(remedy providers.Remedy) providers.Drift {
	if d.out {
		remedy = providers.RemedyPowerOff
	}
	return providers.Drift{Reason: d.reason, Detail: d.detail, Remedy: remedy}
}

func hardware(out bool, format string, args ...any) difference {
	return difference{reason: v1.ReasonDefinitionChanged, detail: fmt.Sprintf(format, args...), out: out}
}

// compare tells how a domain differs from the wanted one.
func (s Sight) compare(want, got Outline, live bool) []difference {
	var list []difference
	if got.Name != want.Name {
		list = append(list, hardware(false, "its name is %s, and was made as %s", shown(got.Name), shown(want.Name)))
	}
	if s.Want.Record.known() {
		list = append(list, settings(want, got)...)
	}
	list = append(list, s.disks(want.Disks, got.Disks, live)...)
	list = append(list, s.cards(want.Cards, got.Cards)...)
	if s.Want.Record.known() {
		list = append(list, shares(want.Shares, got.Shares)...)
	}
	return append(list, s.devices(want.Devices, got.Devices)...)
}

// settings compares numbers and words.
func settings(want, got Outline) []difference {
	var list []difference
	if wholeMiB(got.MemoryBytes) != wholeMiB(want.MemoryBytes) {
		list = append(list, hardware(false, "its memory is %s, and was made as %s", size(got.MemoryBytes), size(want.MemoryBytes)))
	}
	if got.CPUs != want.CPUs {
		list = append(list, hardware(false, "its number of CPUs is %d, and was made as %d", got.CPUs, want.CPUs))
	}
	if got.MaxCPUs != want.MaxCPUs && got.CPUs == want.CPUs {
		list = append(list, hardware(false, "it may be given %d CPUs, and was made with %d", got.MaxCPUs, want.MaxCPUs))
	}
	for _, c := range []struct{ what, got, want string }{
		{"its kind of virtualization is", got.Type, want.Type},
		{"it boots", got.Boot, want.Boot},
		{"its end is", got.Ends, want.Ends},
	} {
		if c.got != c.want {
			list = append(list, hardware(false, "%s %s, and was made as %s", c.what, shown(c.got), shown(c.want)))
		}
	}
	return list
}

// wholeMiB rounds as libvirt does with the memory of what it starts.
func wholeMiB(bytes int64) int64 { return (bytes + 1<<20 - 1) >> 20 }

func size(bytes int64) string {
	if bytes%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d KiB", bytes>>10)
}

// foreign tells whether a drive has what does not lie in the machine's folder: what is
// somebody else's, and may be the host's own disk.
func (s Sight) foreign(d Disk) bool {
	return d.NoFile || d.Source != "" && filepath.Dir(d.Source) != filepath.Dir(s.Want.Disk)
}

// disks compares the drives. What is in the drive of an installer's CD changes by
// itself while it runs: it is taken out.
func (s Sight) disks(want, got []Disk, live bool) []difference {
	var list []difference
	for _, w := range want {
		i := slices.IndexFunc(got, func(g Disk) bool { return g.Target == w.Target })
		reason := v1.ReasonDefinitionChanged
		if w.Target == rootDisk {
			reason = v1.ReasonDiskChanged
		}
		switch {
		case i < 0 && (w.Target == rootDisk || s.Want.Record.known()):
			list = append(list, difference{reason: reason, detail: "its drive " + w.Target + " is gone"})
		case i < 0 || w == got[i]:
		case w.Device == "cdrom" && live && !s.foreign(got[i]):
		case w.Source != got[i].Source:
			if w.Target == rootDisk && !s.Want.Record.DiscardOnStop && slices.Contains(s.Files.Overlays, got[i].Source) {
				continue // told of with the files
			}
			list = append(list, difference{
				reason: reason, out: got[i].NoFile || w.Device == "cdrom" && s.foreign(got[i]),
				detail: fmt.Sprintf("its drive %s is %s, and was made as %s", w.Target, shown(got[i].Source), shown(w.Source)),
			})
		case s.Want.Record.known():
			list = append(list, difference{reason: reason, detail: "its drive " + w.Target + " is connected in another way than it was made"})
		}
	}
	for _, g := range got {
		foreign := s.foreign(g)
		if (foreign || s.Want.Record.known()) && !slices.ContainsFunc(want, func(w Disk) bool { return w.Target == g.Target }) {
			list = append(list, hardware(foreign, "it has the drive %s with %s, which sandboxd did not give it", shown(g.Target), shown(g.Source)))
		}
	}
	return list
}

// cards compares the network cards, of which a machine has one or none.
func (s Sight) cards(want, got []Card) []difference {
	network := func(out bool, format string, args ...any) difference {
		return difference{reason: v1.ReasonNetworkChanged, detail: fmt.Sprintf(format, args...), out: out}
	}
	var list []difference
	rest := slices.Clone(got)
	for _, w := range want {
		i := slices.IndexFunc(rest, func(g Card) bool { return g.MAC == w.MAC })
		if i < 0 && len(rest) > 0 {
			i = 0
		}
		if i < 0 {
			list = append(list, network(false, "its network card is gone"))
			continue
		}
		g := rest[i]
		rest = slices.Delete(rest, i, i+1)
		known := s.Want.Record.known()
		for _, c := range []struct {
			differs, out bool
			what         string
		}{
			{g.On != w.On && (known || !strings.HasSuffix(g.On, w.Net())), true, fmt.Sprintf("is on %s, and was made to be on %s", shown(g.On), shown(w.On))},
			{g.MAC != w.MAC, true, fmt.Sprintf("has the MAC address %s, and was made with %s", shown(g.MAC), w.MAC)},
			{w.Tap != "" && g.Tap != w.Tap, true, fmt.Sprintf("has the host's end %s, and was made with %s", shown(g.Tap), w.Tap)},
			{w.Isolated && !g.Isolated, true, "is not isolated from those of other machines"},
			{g.Script, true, "runs a script of the host"},
			{known && g.Filter != w.Filter, false, "has the network filter " + shown(g.Filter)},
			{g.Down != w.Down, false, "has its link down"},
			{known && g.Model != w.Model, false, fmt.Sprintf("is of the model %s, and was made as %s", shown(g.Model), w.Model)},
		} {
			if c.differs {
				list = append(list, network(c.out, "its network card %s", c.what))
			}
		}
	}
	for _, g := range rest {
		list = append(list, network(true, "it has a network card on %s, which sandboxd did not give it", shown(g.On)))
	}
	return list
}

// Net is the name of what a card is connected to.
func (c Card) Net() string {
	_, name, _ := strings.Cut(c.On, " ")
	return " " + name
}

// shares compares the directories of the host that the machine is offered.
func shares(want, got map[string]Share) []difference {
	var list []difference
	for _, tag := range slices.Sorted(maps.Keys(want)) {
		w := want[tag]
		switch g, there := got[tag]; {
		case !there:
			list = append(list, hardware(false, "its shared folder %s is gone", shown(tag)))
		case g.Dir != w.Dir:
			list = append(list, hardware(true, "its shared folder %s is %s, and was made as %s", shown(tag), shown(g.Dir), shown(w.Dir)))
		case g.ReadOnly != w.ReadOnly:
			list = append(list, hardware(!g.ReadOnly, "its shared folder %s is read-only: %t, and was made so: %t", shown(tag), g.ReadOnly, w.ReadOnly))
		}
	}
	for _, tag := range slices.Sorted(maps.Keys(got)) {
		if _, given := want[tag]; !given {
			list = append(list, hardware(true, "it shares %s of the host, which sandboxd did not give it", shown(got[tag].Dir)))
		}
	}
	return list
}

// devices compares how many there are of each kind. Of a machine that another
// release made, only that none of them reaches outside.
func (s Sight) devices(want, got map[Device]int) []difference {
	var list []difference
	for _, d := range sorted(got) {
		if got[d] > want[d] && (d.Out || s.Want.Record.known()) {
			list = append(list, hardware(d.Out, "it has %s, which sandboxd did not give it", d.What))
		}
	}
	for _, d := range sorted(want) {
		if got[d] < want[d] && s.Want.Record.known() {
			list = append(list, hardware(false, "it lacks %s", d.What))
		}
	}
	return list
}

// shown is a text of others as a message has it: quoted, on one line, bounded.
func shown(text string) string { return strconv.Quote(clip(text, maxShown)) }

// word is a path as a shell takes it for one word. Without the right base, libvirt
// would write into the image.
func word(path string) string {
	if strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// clip leaves out the middle of a text that is too long.
func clip(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit/2]) + "..." + string(runes[len(runes)-limit/2:])
	}
	return text
}
