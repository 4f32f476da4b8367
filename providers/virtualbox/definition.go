package virtualbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/beevik/etree"
	"github.com/google/uuid"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/internal/datafolder"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// A clone of one of our own golden machines is made what is planned before
// VirtualBox knows it, in the file that describes it:
//
//	clonevm ──▶ definition, edited ──▶ registervm
//
// Each command for the same would be a process and a session of its own. What
// VirtualBox made of the file is looked at before the machine starts, as always; a
// file that is not as expected is left alone, and the commands do it then.

// errUnusual: a definition is not as VirtualBox 7 writes it for our golden
// machines.
var errUnusual = errors.New("the definition is not as expected")

// engineNames are VirtualBox's words for engines in a definition.
var engineNames = map[string]string{EngineNative: "HwVirt", EngineInterpreter: "Interpreter", EngineRecompiler: "Recompiler"}

// define edits the definition of a clone that is not registered yet, all but its
// network card. It returns the clone's disk: its UUID and its file. With
// errUnusual the file is as it was.
func (pl plan) define(path, seed string) (medium, file string, err error) {
	doc := etree.NewDocument()
	if err := doc.ReadFromFile(path); err != nil {
		return "", "", fmt.Errorf("%w: %w", errUnusual, err)
	}
	machine, err := only(doc.SelectElements("VirtualBox"), "Machine")
	if err != nil {
		return "", "", err
	}
	hardware, err := only([]*etree.Element{machine}, "Hardware")
	if err != nil {
		return "", "", err
	}
	if medium, err = pl.drives(machine, hardware, seed); err != nil {
		return "", "", err
	}
	for _, edit := range []func(machine, hardware *etree.Element) error{pl.processor, pl.firmware, pl.devices} {
		if err := edit(machine, hardware); err != nil {
			return "", "", err
		}
	}
	file = filepath.Join(filepath.Dir(path), "Snapshots", "{"+medium+"}.vdi")
	if !files.Exists(file) {
		return "", "", fmt.Errorf("%w: there is no disk %s", errUnusual, file)
	}
	b, err := doc.WriteToBytes()
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", errUnusual, err)
	}
	return medium, file, files.Write(path, b, datafolder.FileMode)
}

// only returns the one child of that name of one element.
func only(of []*etree.Element, name string) (*etree.Element, error) {
	if len(of) == 1 {
		if children := of[0].SelectElements(name); len(children) == 1 {
			return children[0], nil
		}
	}
	return nil, fmt.Errorf("%w: there is not one %s", errUnusual, name)
}

// anew returns an empty child of that name in the place of any that were there.
func anew(of *etree.Element, name string) *etree.Element {
	for _, child := range of.SelectElements(name) {
		of.RemoveChild(child)
	}
	return of.CreateElement(name)
}

// drives inserts the seed, into a drive of its own beside the one disk.
func (pl plan) drives(machine, hardware *etree.Element, seed string) (medium string, err error) {
	controllers, err := only([]*etree.Element{hardware}, "StorageControllers")
	if err != nil {
		return "", err
	}
	sata, err := only([]*etree.Element{controllers}, "StorageController")
	if err != nil {
		return "", err
	}
	disk, err := only([]*etree.Element{sata}, "AttachedDevice")
	if err != nil {
		return "", err
	}
	image, err := only([]*etree.Element{disk}, "Image")
	if err != nil {
		return "", err
	}
	medium = strings.Trim(image.SelectAttrValue("uuid", ""), "{}")
	if _, err := uuid.Parse(medium); err != nil || disk.SelectAttrValue("port", "") != "0" || len(machine.SelectElements("MediaRegistry")) != 0 {
		return "", fmt.Errorf("%w: its disk is attached otherwise", errUnusual)
	}
	id := "{" + uuid.NewString() + "}"
	dvd := machine.CreateElement("MediaRegistry").CreateElement("DVDImages").CreateElement("Image")
	dvd.CreateAttr("uuid", id)
	dvd.CreateAttr("location", seed)
	drive := sata.CreateElement("AttachedDevice")
	for _, a := range [][2]string{{"passthrough", "false"}, {"type", "DVD"}, {"hotpluggable", "false"}, {"port", "1"}, {"device", "0"}} {
		drive.CreateAttr(a[0], a[1])
	}
	drive.CreateElement("Image").CreateAttr("uuid", id)
	return medium, nil
}

// processor sets what runs the machine, and its memory.
func (pl plan) processor(machine, hardware *etree.Element) error {
	engine, known := engineNames[pl.engine]
	switch {
	case known:
		machine.CreateAttr("executionEngine", engine)
	case pl.engine == EngineDefault:
		machine.RemoveAttr("executionEngine")
	default:
		return fmt.Errorf("%w: engine %q", errUnusual, pl.engine)
	}
	if pl.engine == EngineInterpreter || pl.engine == EngineRecompiler {
		anew(hardware, "Paravirt").CreateAttr("provider", "None")
	}
	anew(hardware, "Memory").CreateAttr("RAMSize", strconv.FormatInt(pl.spec.MemoryBytes>>20, 10))
	cpu, err := only(machine.SelectElements("Platform"), "CPU") // since 7.1
	if err != nil {
		if cpu, err = only([]*etree.Element{hardware}, "CPU"); err != nil {
			return err
		}
	}
	cpu.CreateAttr("count", strconv.Itoa(pl.spec.CPUs))
	return nil
}

// firmware checks that the golden machine's is what the spec asks for.
func (pl plan) firmware(_, hardware *etree.Element) error {
	apic := false
	efi := false
	for _, name := range []string{"Firmware", "BIOS"} { // 7.1 moved it all into Firmware
		for _, e := range hardware.SelectElements(name) {
			efi = efi || strings.HasPrefix(e.SelectAttrValue("type", ""), "EFI")
			if a := e.SelectElement("IOAPIC"); a != nil {
				apic = apic || a.SelectAttrValue("enabled", "") == "true"
			}
		}
	}
	if pl.spec.CPUs > 1 && !apic || efi != (pl.spec.Firmware == v1.FirmwareEFI) {
		return fmt.Errorf("%w: its firmware is another", errUnusual)
	}
	return nil
}

// devices sets the serial port, the shared folders and the description. Cards
// that the golden machine has are switched off.
func (pl plan) devices(machine, hardware *etree.Element) error {
	network, err := only([]*etree.Element{hardware}, "Network")
	if err != nil {
		return err
	}
	for _, card := range network.SelectElements("Adapter") {
		card.RemoveAttr("enabled")
	}
	port := anew(hardware, "UART").CreateElement("Port")
	for _, a := range [][2]string{
		{"slot", "0"}, {"enabled", "true"}, {"IOBase", "0x3f8"}, // until 1.19 of the format, which is chosen by what is in use
		{"IOAddress", "0x3f8"}, {"IRQ", "4"}, {"path", pl.console}, {"hostMode", "RawFile"},
	} {
		port.CreateAttr(a[0], a[1])
	}
	folders := anew(hardware, "SharedFolders")
	for _, f := range pl.spec.SharedFolders {
		folder := folders.CreateElement("SharedFolder")
		for _, a := range [][2]string{
			{"name", f.Name}, {"hostPath", f.HostPath}, {"writable", strconv.FormatBool(!f.IsReadOnly())}, {"autoMount", "false"},
		} {
			folder.CreateAttr(a[0], a[1])
		}
	}
	anew(machine, "Description").SetText(pl.description())
	return nil
}
