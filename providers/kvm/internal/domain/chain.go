package domain

import (
	"fmt"

	"libvirt.org/go/libvirtxml"
)

// rootDisk is where a machine finds its disk.
const rootDisk = "vda"

// backing describes what an overlay lies on, down to the file that stands alone.
func backing(files []string) *libvirtxml.DomainDiskBackingStore {
	if len(files) == 0 {
		return &libvirtxml.DomainDiskBackingStore{}
	}
	return &libvirtxml.DomainDiskBackingStore{
		Format: &libvirtxml.DomainDiskFormat{Type: "qcow2"},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{
			File:     files[0],
			SecLabel: []libvirtxml.DomainDeviceSecLabel{{Model: "dac", Relabel: "no"}},
		}},
		BackingStore: backing(files[1:]),
	}
}

// below lists the files that the root disk lies on.
func below(disks []libvirtxml.DomainDisk) []string {
	var files []string
	for _, d := range disks {
		if d.Target == nil || d.Target.Dev != rootDisk {
			continue
		}
		for b := d.BackingStore; b != nil && b.Source != nil && b.Source.File != nil; b = b.BackingStore {
			files = append(files, b.Source.File.File)
		}
	}
	return files
}

// SetDisk changes in a domain's XML what its disk is, the first of the files, and
// what that lies on, and nothing else.
func SetDisk(text string, files []string) (string, error) {
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		return "", fmt.Errorf("domain XML: %w", err)
	}
	if d.Devices != nil {
		for i, disk := range d.Devices.Disks {
			if disk.Target != nil && disk.Target.Dev == rootDisk {
				d.Devices.Disks[i].BackingStore = backing(files[1:])
				if diskOf(disk).Source != files[0] {
					d.Devices.Disks[i] = overlay(Spec{Disk: files[0], Below: files[1:]})
				}
				return d.Marshal()
			}
		}
	}
	return "", fmt.Errorf("domain XML: it has no disk %s", rootDisk)
}
