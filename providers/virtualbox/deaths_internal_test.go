package virtualbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
)

// dies ends VBoxManage by a signal at its next calls for a verb, as often as a file says.
const dies = `dies() {
	left=$(cat deaths)
	[ "$left" = 0 ] || { echo $((left - 1)) >deaths; echo "$1" >>died; kill -SEGV $$; }
}
`

// TestEndsInTheMiddle: a VBoxManage that crashes while it clones leaves half a machine
// behind. The next try finds it, and the caller is not told. One that crashes more often
// fails the call, and any later call goes on where it was: nothing is given up.
func TestEndsInTheMiddle(t *testing.T) {
	for died, calls := range map[int]int{0: 1, 1: 1, deaths: 1, deaths + 1: 2, 3 * (deaths + 1): 4} {
		t.Run(fmt.Sprint(died), func(t *testing.T) {
			t.Parallel()
			p, dir := answering(t, uuidKnown+dies+`case $1 in
clonevm)
	id=$6
	vm=$PWD/data/machines/$id/$4
	[ ! -e "$vm/half" ] || refuse 'The folder is not empty' 'VBOX_E_FILE_ERROR (0x80bb0004)'
	mkdir -p "$vm"
	echo >"$vm/half"
	dies clonevm
	rm "$vm/half"
	echo '<VirtualBox><Machine><Hardware/></Machine></VirtualBox>' >"$vm/$4.vbox"
	echo "VMState=\"poweroff\"
CfgFile=\"$vm/$4.vbox\"
storagecontrollername0=\"IDE\"
\"IDE-0-0\"=\"$vm/Snapshots/a.vdi\"
\"IDE-ImageUUID-0-0\"=\"3c91bf36-d64f-4066-85df-3cee44b439cf\"
\"IDE-0-1\"=\"none\"" >$id ;;
showvminfo) [ -e "$2" ] || refuse 'Could not find it' 'VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)'; cat "$2" ;;
esac
`)
			ref := providers.ImageRef{UID: types.UID(uuid.NewString()), Revision: "1"}
			img := providers.Image{ImageRef: ref, Format: v1.DiskFormatVDI, VirtualSize: 1 << 20}
			err := errors.Join(
				os.WriteFile(filepath.Join(dir, "deaths"), []byte(strconv.Itoa(died)), 0o600),
				files.Mkdir(p.data.ImageDir(ref.UID), dirMode),
				p.seal(sealed{Seal: p.sealOf(providers.ImageSpec{ImageRef: ref, Name: "golden"}, img), Machine: types.UID(uuid.NewString()), Snapshot: "s", Adopted: true}),
			)
			if err != nil {
				t.Fatal(err)
			}
			spec := providers.MachineSpec{
				ID: types.UID(uuid.NewString()), Namespace: "default", Name: "box", Image: ref, CPUs: 1, MemoryBytes: 32 << 20,
				Network: v1.Network{Mode: v1.NetworkNone},
			}
			for n := 1; n < calls; n++ {
				err = p.EnsureMachine(t.Context(), spec)
				if !errors.Is(err, providers.ErrUnavailable) || providers.IsTerminal(err) {
					t.Fatalf("call %d of %d: %v", n, calls, err)
				}
				if !strings.Contains(err.Error(), "VBoxManage clonevm was ended by a signal, as when it crashes") {
					t.Errorf("it says %v", err)
				}
				if files.Exists(filepath.Join(dir, string(spec.ID))) {
					t.Errorf("made by call %d", n)
				}
			}
			if err := p.EnsureMachine(t.Context(), spec); err != nil || !files.Exists(filepath.Join(dir, string(spec.ID))) {
				t.Errorf("the last call: %v", err)
			}
			b, _ := os.ReadFile(filepath.Join(dir, "died"))
			if got := strings.Count(string(b), "clonevm"); got != died {
				t.Errorf("it died %d times", got)
			}
		})
	}
}

// TestDisksOfCallsThatDied: a VBoxManage that crashes has not said that a disk is nobody's.
func TestDisksOfCallsThatDied(t *testing.T) {
	p, dir := answering(t, dies+`case $1 in closemedium) dies closemedium ;; esac`+"\n")
	id := types.UID(uuid.NewString())
	disk := filepath.Join(p.data.MachineDir(id), "x", "a.vdi")
	err := errors.Join(
		os.MkdirAll(filepath.Dir(disk), 0o700), os.WriteFile(disk, nil, 0o600),
		os.WriteFile(filepath.Join(dir, "deaths"), []byte("1"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.closeMedia(t.Context(), id, p.data.MachineDir(id)); !errors.Is(err, providers.ErrUnavailable) || !files.Exists(disk) {
		t.Errorf("got %v, and the disk is there: %v", err, files.Exists(disk))
	}
	if err := p.closeMedia(t.Context(), id, p.data.MachineDir(id)); err != nil || files.Exists(disk) {
		t.Errorf("the next time: %v, and the disk is there: %v", err, files.Exists(disk))
	}
}

// natScript is a machine on NAT that is off, as VirtualBox shows it: a file. VBoxSVC ends,
// and forgets that the loopback is closed, so often after each of the calls that a file
// is named for.
const natScript = `forgets() {
	left=$(cat "$1" 2>/dev/null || echo 0)
	[ "$left" = 0 ] || { echo $((left - 1)) >"$1"; sed -i 's/^localhostReachable=.*/localhostReachable="1"/' vm; }
}
state() { sed -i "s/^VMState=.*/VMState=\"$1\"/" vm; }
case $1 in
showvminfo) cat vm ;;
modifyvm)
	[ "$3 $4" = "--nat-localhostreachable1 off" ] || exit 1
	sed -i 's/^localhostReachable=.*/localhostReachable="0"/' vm
	forgets modifyvm ;;
startvm)
	forgets startvm
	echo >>starts
	[ ! -e refuses ] || { echo 'VBoxManage: error: The virtual machine has terminated unexpectedly during startup' >&2; exit 1; }
	state running ;;
controlvm) [ "$3" = poweroff ] || exit 1; state poweroff ;;
esac
`

// TestForgetfulService: a VBoxSVC that crashes forgets that a machine's NAT is closed to
// the loopback. It is closed anew, also when that was noticed only once the machine ran;
// with a VBoxSVC that crashes for ever the machine does not stay on. One that was
// reverted goes on with what it was put back to, and is so still as long as it does not
// come to run.
func TestForgetfulService(t *testing.T) {
	for name, c := range map[string]struct {
		begins  string // in this state
		forgets map[string]int
		starts  int
		is      providers.Power // in the end
	}{
		"never":                          {statePoweroff, nil, 1, providers.PowerRunning},
		"right after it was closed":      {statePoweroff, map[string]int{"modifyvm": 2}, 1, providers.PowerRunning},
		"whenever it was closed":         {statePoweroff, map[string]int{"modifyvm": 99}, 0, providers.PowerOff},
		"before it runs":                 {statePoweroff, map[string]int{"startvm": 1}, 2, providers.PowerRunning},
		"after and before":               {statePoweroff, map[string]int{"modifyvm": 1, "startvm": 2}, 3, providers.PowerRunning},
		"whenever it is about to be run": {statePoweroff, map[string]int{"startvm": 99}, deaths + 1, providers.PowerOff},
		"never, but it does not start":   {statePoweroff, map[string]int{"refuses": 1}, 1, providers.PowerOff},
		"saved, and it does not start":   {"saved", map[string]int{"refuses": 1}, 1, providers.PowerSaved},
		"saved, and it must not run":     {"saved", map[string]int{"startvm": 99}, 1, providers.PowerOff},
		"saved, and it goes on":          {"saved", nil, 1, providers.PowerRunning},
	} {
		t.Run(name, func(t *testing.T) {
			p, dir := answering(t, natScript)
			info, r, _ := sound(v1.NetworkNAT)
			r.Instance, r.VM, r.SharedFolders = "test", "web", nil
			r.Network.PortForwards = nil
			r.DiscardOnStop, r.Reverted = true, true
			r.Hashes = providers.Hashes{Hardware: "h", Network: "n", Forwards: "f", Seed: "s"}
			machine := filepath.Join(p.data.MachineDir(r.ID), r.VM)
			info["VMState"], info["uartmode1"], info["localhostReachable"] = c.begins, "file,"+p.data.console(r.ID), "1"
			info["name"], info["CfgFile"] = r.VM, filepath.Join(machine, "web.vbox")
			info["SATA-0-0"], info["SATA-1-0"] = filepath.Join(machine, "disk.vdi"), filepath.Join(machine, seedName)
			for _, key := range []string{"Forwarding(0)", "SharedFolderNameMachineMapping1", "SharedFolderPathMachineMapping1"} {
				delete(info, key)
			}
			var shown strings.Builder
			for _, key := range sortedKeys(info) {
				fmt.Fprintf(&shown, "%s=%q\n", key, info[key])
			}
			contents := map[string]string{
				filepath.Join(dir, "vm"): shown.String(), info["SATA-0-0"]: "",
				info["CfgFile"]: `<VirtualBox><Machine uuid="{` + string(r.ID) + `}"><Hardware/></Machine></VirtualBox>`,
			}
			for call, n := range c.forgets {
				contents[filepath.Join(dir, call)] = strconv.Itoa(n)
			}
			for path, content := range contents {
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.writeRecord(r); err != nil {
				t.Fatal(err)
			}
			err := p.Start(t.Context(), r.ID)
			failed, says := c.is != providers.PowerRunning, openings[loopbackKey]
			if c.forgets["refuses"] > 0 {
				says = "terminated unexpectedly"
			}
			if fails := errors.Is(err, providers.ErrUnavailable); fails != failed || err != nil && !strings.Contains(err.Error(), says) {
				t.Errorf("got %v", err)
			}
			b, _ := os.ReadFile(filepath.Join(dir, "starts"))
			if got := strings.Count(string(b), "\n"); got != c.starts {
				t.Errorf("it was started %d times, want %d", got, c.starts)
			}
			m, err := p.GetMachine(t.Context(), r.ID)
			if err != nil || m.Power != c.is || !failed && !m.Network.Isolated {
				t.Errorf("it is %+v, %v", m, err)
			}
			if r, err := p.readRecord(r.ID); err != nil || r.Reverted != failed {
				t.Errorf("it is still reverted: %v, %v", r.Reverted, err)
			}
		})
	}
}
