package capacity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// Host looks at the host. Machines are in the subfolders of the folders, each named
// by its ID; the first folder, or where it is going to be, is on the file system that
// counts.
func Host(folders ...string) (Facts, error) {
	memory, err := memorySize()
	if err != nil {
		return Facts{}, fmt.Errorf("read how much memory the host has: %w", err)
	}
	f := Facts{Memory: memory, CPUs: int64(runtime.NumCPU()), Machines: map[types.UID]int64{}}
	if len(folders) == 0 {
		return f, nil
	}
	var st unix.Statfs_t
	at, err := existing(folders[0])
	if err == nil {
		err = unix.Statfs(at, &st)
	}
	if err != nil {
		return Facts{}, fmt.Errorf("read how much is free in %s: %w", folders[0], err)
	}
	block := int64(st.Bsize)                                                        //nolint:unconvert // of another type on macOS
	f.DiskSize, f.DiskFree = int64(st.Blocks)*block, int64(max(st.Bavail, 0))*block //nolint:gosec // sizes of file systems
	device, err := deviceOf(at)
	if err != nil {
		return Facts{}, err
	}
	for _, folder := range folders {
		if err := f.addMachines(folder, device); err != nil {
			return Facts{}, err
		}
	}
	return f, nil
}

// existing is a folder, or the nearest one above it that exists.
func existing(folder string) (string, error) {
	for at := folder; ; at = filepath.Dir(at) {
		_, err := os.Stat(at)
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return at, err
		}
	}
}

func deviceOf(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev), nil //nolint:gosec,unconvert // compared only
	}
	return 0, nil
}

// addMachines adds what the machines of a folder take, if it is on the device. What
// is removed meanwhile takes nothing.
func (f *Facts) addMachines(folder string, device uint64) error {
	if at, err := deviceOf(folder); errors.Is(err, fs.ErrNotExist) || err == nil && at != device {
		return nil
	}
	machines, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("read what the machines in %s take: %w", folder, err)
	}
	for _, m := range machines {
		var used int64
		err := filepath.WalkDir(filepath.Join(folder, m.Name()), func(_ string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				used += st.Blocks * statBlock
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read what the machines in %s take: %w", folder, err)
		}
		f.Machines[types.UID(m.Name())] += used
	}
	return nil
}

// statBlock is the unit of st_blocks, whatever the file system.
const statBlock = 512
