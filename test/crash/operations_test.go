package crash_test

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
)

// host is what an operation looks into besides the API.
type host interface {
	// read reads a file of a guest; "" when there is none.
	read(ctx context.Context, id types.UID, path string) (string, error)
	write(ctx context.Context, id types.UID, path, content string) error
	machine(ctx context.Context, id types.UID) (providers.Machine, error)
}

// stage is what an operation is lived on.
type stage struct {
	ctx    context.Context
	client client.Client
	host   host
}

// deed is something that a user does: a write to the API, which is repeated until it
// is acknowledged, and what must become of it.
type deed struct {
	write func(stage) error
	until func(stage) error
}

// operation is what a control plane dies in: it dies in one of the deeds, not in
// what was made before.
type operation struct {
	name   string
	before []deed
	deeds  []deed
	// check looks at what must be so in the end, besides that no deed is undone.
	check func(stage) error
	// restart makes another control plane start between before and deeds, which
	// may die in that.
	restart bool
	// restarts: the machine may end and be restarted.
	restarts bool
}

// operations are those that there are.
func operations() []operation {
	img, box := create(goldenImage("golden")), create(sandbox("box"))
	running := []deed{{img, isReady("golden")}, {box, marked("box", "kept")}}
	snapshot := func(memory bool) []deed {
		return append(running[:2:2], deed{create(newSnapshot("snap", "box", memory)), all(isReady("snap"), isReady("box"))},
			deed{nothing, marked("box", "lost")})
	}
	stopped := append(running[:2:2], deed{power("box", v1.PowerStopped), is("box", v1.SandboxStopped)})
	suspended := append(running[:2:2], deed{power("box", v1.PowerSuspended), is("box", v1.SandboxSuspended)})
	return []operation{
		{
			name: "create", before: running[:1],
			deeds: []deed{{create(sandbox("web", natted(8080), keyed("ssh-ed25519 AAAA one"))), isReady("web")}},
			check: all(forwards("web", 8080), admits("web", "AAAA one")),
		},
		{
			name: "update: forwards", before: append(running[:1:1], deed{create(sandbox("box", natted(8080))), marked("box", "kept")}),
			deeds: []deed{{update("box", natted(8081, 8082)), isReady("box")}},
			check: all(forwards("box", 8081, 8082), holds("box", "kept")),
		},
		{
			name: "update: keys", before: running,
			deeds: []deed{{update("box", keyed("ssh-ed25519 AAAA two")), isReady("box")}},
			check: all(admits("box", "AAAA two"), holds("box", "kept")),
		},
		{
			name: "update: network", before: running,
			deeds: []deed{{update("box", natted(8080)), isReady("box")}},
			check: all(forwards("box", 8080), holds("box", "kept")),
		},
		{
			name: "update: cpus", before: running,
			deeds: []deed{
				{update("box", func(s *v1.Sandbox) { s.Spec.CPUs, s.Spec.PowerState = 2, v1.PowerStopped }), is("box", v1.SandboxStopped)},
				{power("box", v1.PowerRunning), isReady("box")},
			},
			check: all(processors("box", "2"), holds("box", "kept")),
		},
		{
			name: "stop", before: running,
			deeds: []deed{{power("box", v1.PowerStopped), is("box", v1.SandboxStopped)}},
			check: powered("box", providers.PowerOff),
		},
		{
			name: "start", before: stopped,
			deeds: []deed{{power("box", v1.PowerRunning), isReady("box")}},
			check: holds("box", "kept"),
		},
		{
			name: "suspend", before: running,
			deeds: []deed{{power("box", v1.PowerSuspended), is("box", v1.SandboxSuspended)}},
			check: powered("box", providers.PowerSaved),
		},
		{
			name: "resume", before: suspended,
			deeds: []deed{{power("box", v1.PowerRunning), isReady("box")}},
			check: holds("box", "kept"),
		},
		{
			name: "snapshot", before: running,
			deeds: []deed{{create(newSnapshot("snap", "box", false)), all(isReady("snap"), isReady("box"))}},
			check: holds("box", "kept"),
		},
		{
			name: "snapshot: memory", before: running,
			deeds: []deed{{create(newSnapshot("snap", "box", true)), all(isReady("snap"), isReady("box"))}},
			check: holds("box", "kept"),
		},
		{
			name: "snapshot: delete", before: snapshot(true),
			deeds: []deed{{remove(newSnapshot("snap", "box", true)), gone(newSnapshot("snap", "box", true))}},
			check: holds("box", "lost"),
		},
		{
			name: "revert", before: snapshot(false),
			deeds: []deed{{update("box", revertTo("snap")), reverted("box")}},
			check: holds("box", "kept"),
		},
		{
			name: "revert: memory", before: snapshot(true),
			deeds: []deed{{update("box", revertTo("snap")), reverted("box")}},
			check: holds("box", "kept"),
		},
		{
			name: "fork", before: snapshot(false),
			deeds: []deed{{create(sandbox("child", func(s *v1.Sandbox) { s.Spec.FromSnapshot = "snap" })), isReady("child")}},
			check: all(holds("child", "kept"), holds("box", "lost")),
		},
		{
			name: "delete", before: append(snapshot(true), deed{create(sandbox("other")), marked("other", "kept")}),
			deeds: []deed{{remove(sandbox("box")), all(gone(sandbox("box")), gone(newSnapshot("snap", "box", true)))}},
			check: holds("other", "kept"),
		},
		{
			name:  "image: import",
			deeds: []deed{{create(goldenImage("golden")), isReady("golden")}},
		},
		{
			name: "image: revision", before: running,
			deeds: []deed{{retarget("golden", "other.qcow2"), revisions("golden", 2)}, {create(sandbox("young")), isReady("young")}},
			check: all(holds("box", "kept"), holds("young", ""), apart("box", "young")),
		},
		{
			name: "image: delete", before: append(running[:2:2], deed{create(goldenImage("second")), isReady("second")}),
			deeds: []deed{{remove(goldenImage("second")), gone(goldenImage("second"))}},
			check: holds("box", "kept"),
		},
		{
			name: "image: promote", before: stopped,
			deeds: []deed{{create(promoted("made", "box")), isReady("made")}, {create(sandbox("clone", of("made"))), isReady("clone")}},
			check: holds("clone", "kept"),
		},
		{
			name:  "image: build",
			deeds: []deed{{create(built("golden")), isReady("golden")}, {create(sandbox("box")), isReady("box")}},
			check: contains("box", "/opt/built", "one\nthree\n"),
		},
		{
			name: "daemon: start", before: append(snapshot(true), deed{create(sandbox("other", natted(8080))), isReady("other")}), restart: true,
			deeds: []deed{{nothing, all(isReady("box"), isReady("other"), isReady("snap"))}},
			check: all(holds("box", "lost"), forwards("other", 8080)),
		},
	}
}

// patience ends what hangs; nothing is expected to take so long.
const patience = 4 * time.Minute
