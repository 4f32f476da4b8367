// Package partition reads the partition tables of a guest's disk: GPT, and MBR with
// logical partitions. What a table says is checked against the size of the disk, and
// no more than a bounded number of partitions is read.
package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	sector = 512
	// maxPartitions bounds what is read of any table.
	maxPartitions = 128
	maxEntrySize  = 4096
)

// ErrCorrupt: the table contradicts itself or the disk.
var ErrCorrupt = errors.New("corrupt")

// Partition is one of a disk.
type Partition struct {
	// Number as Linux counts: the N of /dev/vdaN.
	Number int
	// Start and Size in bytes.
	Start, Size int64
	// UUID of the partition in small letters, as PARTUUID has it; empty with MBR.
	UUID string
}

// Read reads the table of a disk; none when there is no table.
func Read(disk io.ReaderAt, size int64) ([]Partition, error) {
	mbr := make([]byte, sector)
	if size < 2*sector {
		return nil, nil
	}
	if _, err := disk.ReadAt(mbr, 0); err != nil {
		return nil, fmt.Errorf("partition table: %w", err)
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, nil
	}
	for n := range 4 {
		if mbr[446+n*16+4] == 0xee {
			return readGPT(disk, size)
		}
	}
	return readMBR(disk, size, mbr)
}

// slot is an entry of an MBR.
type slot struct {
	kind        byte
	start, size int64
}

func slotAt(raw []byte, n int) slot {
	raw = raw[446+n*16:]
	return slot{raw[4], int64(binary.LittleEndian.Uint32(raw[8:])) * sector, int64(binary.LittleEndian.Uint32(raw[12:])) * sector}
}

func (s slot) extended() bool { return s.kind == 0x05 || s.kind == 0x0f || s.kind == 0x85 }

func readMBR(disk io.ReaderAt, size int64, mbr []byte) ([]Partition, error) {
	var list []Partition
	for n := range 4 {
		s := slotAt(mbr, n)
		switch {
		case s.kind == 0 || s.size == 0:
		case s.extended():
			logical, err := readLogical(disk, size, s.start)
			if err != nil {
				return nil, err
			}
			list = append(list, logical...)
		default:
			list = add(list, n+1, s.start, s.size, "", size)
		}
	}
	return list, nil
}

// readLogical follows the chain of logical partitions, each of which has a table of
// its own. It must lead forward.
func readLogical(disk io.ReaderAt, size, base int64) ([]Partition, error) {
	var list []Partition
	raw := make([]byte, sector)
	for at, n := base, 5; n < 5+maxPartitions && at > 0 && at+sector <= size; n++ {
		if _, err := disk.ReadAt(raw, at); err != nil {
			return nil, fmt.Errorf("logical partition %d: %w", n, err)
		}
		if raw[510] != 0x55 || raw[511] != 0xaa {
			break
		}
		if s := slotAt(raw, 0); s.kind != 0 && s.size != 0 {
			list = add(list, n, at+s.start, s.size, "", size)
		}
		next := slotAt(raw, 1)
		if !next.extended() || base+next.start <= at {
			break
		}
		at = base + next.start
	}
	return list, nil
}

// readGPT reads the table at the beginning or, when that is broken, the one at the
// end.
func readGPT(disk io.ReaderAt, size int64) ([]Partition, error) {
	list, err := readTable(disk, size, sector)
	if err == nil {
		return list, nil
	}
	if backup, backupErr := readTable(disk, size, size/sector*sector-sector); backupErr == nil {
		return backup, nil
	}
	return nil, err
}

func readTable(disk io.ReaderAt, size, at int64) ([]Partition, error) {
	head := make([]byte, sector)
	if _, err := disk.ReadAt(head, at); err != nil {
		return nil, fmt.Errorf("partition table: %w", err)
	}
	le := binary.LittleEndian
	length := le.Uint32(head[12:])
	if string(head[:8]) != "EFI PART" || length < 92 || length > sector {
		return nil, fmt.Errorf("%w: the partition table at %d is not one", ErrCorrupt, at)
	}
	sum := le.Uint32(head[16:])
	clear(head[16:20])
	if crc32.ChecksumIEEE(head[:length]) != sum {
		return nil, fmt.Errorf("%w: the partition table at %d has a wrong checksum", ErrCorrupt, at)
	}
	lba, count, entry := le.Uint64(head[72:]), le.Uint32(head[80:]), le.Uint32(head[84:])
	if entry < 128 || entry > maxEntrySize || lba < 2 || lba > uint64(size/sector) {
		return nil, fmt.Errorf("%w: the partition table at %d has entries of %d bytes at sector %d", ErrCorrupt, at, entry, lba)
	}
	raw := make([]byte, int64(min(count, maxPartitions))*int64(entry))
	if _, err := disk.ReadAt(raw, int64(lba)*sector); err != nil {
		return nil, fmt.Errorf("partition table: %w", err)
	}
	var list []Partition
	for n := 0; (n+1)*int(entry) <= len(raw); n++ {
		e := raw[n*int(entry):]
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if [16]byte(e[:16]) == [16]byte{} || last < first || last >= uint64(size/sector) {
			continue
		}
		list = add(list, n+1, int64(first)*sector, int64(last-first+1)*sector, guid(e[16:32]), size)
	}
	return list, nil
}

// guid formats a GUID, the first three parts of which are little-endian.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// add adds a partition, as far as the disk reaches.
func add(list []Partition, number int, start, length int64, uuid string, size int64) []Partition {
	if start <= 0 || start >= size || len(list) == maxPartitions {
		return list
	}
	return append(list, Partition{Number: number, Start: start, Size: min(length, size-start), UUID: uuid})
}
