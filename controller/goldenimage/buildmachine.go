package goldenimage

import (
	"cmp"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/controller/goldenimage/build"
	"sandboxd.dev/sandboxd/providers"
)

// sshPort of guests that are built by ssh.
const sshPort = 22

// machineSpec describes the machine that builds an image.
func (r *Reconciler) machineSpec(s *state) (providers.MachineSpec, error) {
	img := s.img
	spec := providers.MachineSpec{
		ID: img.UID, Name: img.Name,
		CPUs:        int(cmp.Or(img.Spec.Machine.CPUs, r.o.Build.CPUs)),
		MemoryBytes: r.o.Build.Memory,
		Firmware:    cmp.Or(img.Spec.Machine.Firmware, v1.FirmwareBIOS),
		OSType:      img.Spec.Machine.OSType,
		Network:     buildNetwork(img),
		Seed:        providers.Seed{Hostname: img.Name, User: cmp.Or(img.Spec.Guest.User, "root")},
	}
	if q := img.Spec.Machine.Memory; q != nil {
		spec.MemoryBytes = q.Value()
	}
	if s.plan.Install {
		spec.DiskBytes = defaultDiskSize
		if q := img.Spec.Source.ISO.DiskSize; q != nil {
			spec.DiskBytes = q.Value()
		}
	}
	if s.plan.Base != "" {
		spec.Image = s.ref(s.plan.Base)
	}
	if agentless(img) {
		key, err := r.o.Build.SSH.AuthorizedKey()
		if err != nil {
			return spec, err
		}
		spec.Seed.SSHAuthorizedKeys = []string{key}
	}
	return spec, nil
}

// buildNetwork is what the machine is connected to. VirtualBox's nat lets the host
// in by forwards only.
func buildNetwork(img *v1.GoldenImage) v1.Network {
	n := v1.Network{Mode: cmp.Or(img.Spec.Build.Network, v1.NetworkNone)}
	if n.Mode == v1.NetworkNAT && agentless(img) {
		n.PortForwards = []v1.PortForward{{
			Name: "ssh", Protocol: v1.ProtocolTCP, HostAddress: "127.0.0.1", GuestPort: sshPort,
		}}
	}
	return n
}

// asSandbox describes the machine to those who know machines as Sandboxes.
func asSandbox(img *v1.GoldenImage) *v1.Sandbox {
	return &v1.Sandbox{
		ObjectMeta: metav1.ObjectMeta{Name: img.Name, UID: img.UID},
		Spec:       v1.SandboxSpec{Image: img.Name, Network: buildNetwork(img)},
	}
}

// describe says to a person how a build stands.
// said is the last line of an installer's console.
func describe(plan build.Plan, r *v1.ImageBuild, p build.Progress, said string) string {
	if r == nil || r.Revision != plan.Revision {
		return "the build is about to begin"
	}
	var text string
	switch r.Phase {
	case v1.BuildPreparing:
		text = cmp.Or(p.String(), "making the machine")
	case v1.BuildInstalling:
		text = "installing"
		if said != "" {
			text += ": " + said
		}
	case v1.BuildBooting:
		text = "waiting for the guest"
	case v1.BuildProvisioning:
		text = cmp.Or(p.String(), "beginning with the steps")
	case v1.BuildShuttingDown:
		text = "all steps are done, the guest shuts down"
	case v1.BuildSealing:
		text = "copying the disk"
	default:
		text = "the build is about to begin"
	}
	if r.Attempt > 1 {
		text += fmt.Sprintf(" (attempt %d: %s)", r.Attempt, r.Message)
	}
	return text
}
