package virtualbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"sandboxd.dev/sandboxd/providers"
)

// wholeOutputs ends what a script shows as VBoxManage does, and adds what every machine
// has and the script leaves out.
const wholeOutputs = `verb=${1-}
trap 'rc=$?
[ $rc != 0 ] || case $verb in
list) printf "\n[screenshotformats]\nSupported 1 screen shot formats:\n    BitmapFormat_BGR0 (0x30524742)\n" ;;
showvminfo)
	printf "%s\n" "name=x" "UUID=x" "CfgFile=x" "memory=32" "cpus=1" "uart1=off" "VMState=poweroff" "VMStateChangeTime=x"
	for n in 1 2 3 4 5 6 7 8; do echo "nic$n=none"; done
	echo "GuestMemoryBalloon=0" ;;
esac
exit $rc' EXIT
`

// TestLook: of what VirtualBox says of a machine's power nothing is guessed.
func TestLook(t *testing.T) {
	p, dir := answering(t, `cat vm`+"\n")
	id := types.UID(uuid.NewString())
	rec := record{ID: id, Instance: "test", VM: "x"}
	if err := os.MkdirAll(filepath.Dir(p.logOf(rec)), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, shown, log string
		forced           bool
		power            providers.Power
		off              providers.OffReason
	}{
		{name: "runs", shown: `VMState="running"`, power: providers.PowerRunning},
		{name: "aborted", shown: `VMState="aborted"`, power: providers.PowerOff, off: providers.OffCrashed},
		{name: "aborted by us", shown: `VMState="aborted"`, forced: true, power: providers.PowerOff, off: providers.OffDestroyed},
		{name: "off by us", shown: `VMState="poweroff"`, forced: true, power: providers.PowerOff, off: providers.OffDestroyed},
		{name: "off with VBoxSVC", shown: `VMState="poweroff"`, power: providers.PowerOff, off: providers.OffCrashed},
		{
			name: "off in order", shown: `VMState="poweroff"`, log: "00:00:06.7 Console: Machine state changed to 'PoweredOff'\n",
			power: providers.PowerOff, off: providers.OffShutdown,
		},
		{name: "saved, with a snapshot being taken", shown: "VMState=\"snapshotting\"\nVMStateFile=\"/x.sav\"", power: providers.PowerSaved},
		{name: "of an unknown state", shown: `VMState="unknown"`},
		{name: "of a state of a later version", shown: `VMState="hibernated"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec.Forced = tc.forced
			config := filepath.Join(p.data.MachineDir(id), "x", "x.vbox")
			err := errors.Join(p.writeRecord(rec), os.WriteFile(p.logOf(rec), []byte(tc.log), 0o600),
				os.WriteFile(filepath.Join(dir, "vm"), []byte("CfgFile=\""+config+"\"\n"+tc.shown+"\n"), 0o600))
			if err != nil {
				t.Fatal(err)
			}
			m, err := p.look(t.Context(), id)
			if m.power != tc.power || m.off != tc.off || errors.Is(err, providers.ErrUnavailable) != (tc.power == "") {
				t.Errorf("it is %q, %q, %v", m.power, m.off, err)
			}
		})
	}
}
