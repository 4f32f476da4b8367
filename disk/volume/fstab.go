package volume

import (
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// maxFstab bounds how much of a guest's /etc/fstab is read, in bytes.
const maxFstab = 64 << 10

var deviceName = regexp.MustCompile(`^/dev/(?:[shv]d[a-z]|xvd[a-z]|nvme\d+n\d+p|mmcblk\d+p)(\d{1,3})$`)

// mounts tells the other volumes where the guest has them. A table that cannot be
// read leaves them without a place.
func (d *Disk) mounts(root *Volume) {
	ino, _, err := root.FS.Resolve("/etc/fstab", true)
	if err != nil || !ino.IsRegular() {
		return
	}
	f, err := root.FS.OpenFile(ino)
	if err != nil {
		return
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, min(f.Size(), maxFstab)))
	if err == nil {
		d.readMounts(raw)
	}
}

func (d *Disk) readMounts(table []byte) {
	taken := map[string]bool{"/": true}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		v, at := d.device(fields[0]), path.Clean(fields[1])
		if v == nil || v.Mount != "" || !path.IsAbs(fields[1]) || taken[at] {
			continue
		}
		v.Mount, taken[at] = at, true
	}
}

// device finds the volume that a line of /etc/fstab names.
func (d *Disk) device(spec string) *Volume {
	key, value, _ := strings.Cut(spec, "=")
	value = strings.ToLower(strings.Trim(value, `"`))
	number := -1
	if m := deviceName.FindStringSubmatch(spec); m != nil {
		number, _ = strconv.Atoi(m[1])
	}
	for _, v := range d.Volumes {
		if v.FS == nil {
			continue
		}
		switch {
		case number >= 0 && v.Number == number,
			key == "UUID" && value == uuid(v.FS.UUID),
			key == "LABEL" && value != "" && value == strings.ToLower(v.FS.Label),
			key == "PARTUUID" && value != "" && value == v.UUID:
			return v
		}
	}
	return nil
}

func uuid(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
