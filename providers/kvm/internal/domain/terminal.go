package domain

import (
	"fmt"

	"libvirt.org/go/libvirtxml"
)

// terminal is the serial console: a terminal of the host that libvirt lets be typed
// at, one at a time, and whose output virtlogd writes to a file as well, whether
// anybody looks or not. Releases before it had the file alone, which is the same
// device to the guest: machines that still run so, and saved states of them, are as
// good but for the typing.
func terminal(log string) (libvirtxml.DomainSerial, libvirtxml.DomainConsole) {
	source := &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}
	kept := &libvirtxml.DomainChardevLog{File: log, Append: "on"}
	port := uint(0)
	return libvirtxml.DomainSerial{Source: source, Log: kept, Target: &libvirtxml.DomainSerialTarget{Port: &port}},
		libvirtxml.DomainConsole{Source: source, Log: kept, Target: &libvirtxml.DomainConsoleTarget{Type: "serial", Port: &port}}
}

func isTerminal(s *libvirtxml.DomainChardevSource) bool { return s != nil && s.Pty != nil }

// SetTerminal makes the serial console of a domain one that can be typed at, if it is
// the file that an earlier release gave it. What others have put there is left alone.
func SetTerminal(text, log string) (string, error) {
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		return "", fmt.Errorf("domain XML: %w", err)
	}
	if v := d.Devices; v == nil || len(v.Serials) != 1 || !isLog(v.Serials[0].Source, log) {
		return text, nil
	}
	serial, console := terminal(log)
	d.Devices.Serials, d.Devices.Consoles = []libvirtxml.DomainSerial{serial}, []libvirtxml.DomainConsole{console}
	return d.Marshal()
}

func isLog(s *libvirtxml.DomainChardevSource, log string) bool {
	return s != nil && s.File != nil && s.File.Path == log
}
