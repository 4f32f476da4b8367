//go:build linux

package kvm

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/keyboard"
	"sandboxd.dev/sandboxd/providers/internal/keylock"
	"sandboxd.dev/sandboxd/providers/internal/lifetime"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
	"sandboxd.dev/sandboxd/providers/kvm/internal/accel"
	"sandboxd.dev/sandboxd/providers/kvm/internal/firewall"
	"sandboxd.dev/sandboxd/providers/kvm/internal/forward"
	"sandboxd.dev/sandboxd/providers/kvm/internal/libvirtconn"
)

// Accelerator choices of Options.
const (
	// AcceleratorAuto uses KVM if a probe that runs instructions succeeds.
	AcceleratorAuto = "auto"
	// AcceleratorKVM uses KVM, whatever the probe says.
	AcceleratorKVM = "kvm"
	// AcceleratorTCG emulates.
	AcceleratorTCG = "tcg"
)

// Options of a Provider. Instance and DataDir are required.
type Options struct {
	// Instance that everything made is tagged with.
	Instance providers.Instance
	// DataDir holds images and machines; absolute, of this instance alone. The
	// user that QEMU runs as must be able to pass through its parents.
	DataDir string
	// URI of libvirt's driver; default qemu:///system.
	URI string
	// Socket of libvirt's daemon; default /var/run/libvirt/libvirt-sock.
	Socket string
	// Accelerator: auto (the default), kvm or tcg.
	Accelerator string
	// SubnetPool that the subnets of hostonly and nat networks are taken from,
	// an IPv4 prefix of at most /20; default 10.208.0.0/12.
	SubnetPool netip.Prefix
	// MaxImageBytes bounds the virtual size of an image; default 2 TiB.
	MaxImageBytes int64
	// DownloadStall is how long the server of an image's source may send nothing;
	// default one minute.
	DownloadStall time.Duration
	// QemuImg is the qemu-img program; default qemu-img.
	QemuImg string
	// Used is told of each connection through a machine's port forward, and calls
	// end when it is over; default none.
	Used func(id types.UID) (end func())
	// Logger gets changes of state; default none.
	Logger logr.Logger
}

// used is Used as the forwards want it.
func (o Options) used() func(id string) (end func()) {
	if o.Used == nil {
		return nil
	}
	return func(id string) func() { return o.Used(types.UID(id)) }
}

// Defaults of Options.
const (
	DefaultURI           = "qemu:///system"
	DefaultSocket        = "/var/run/libvirt/libvirt-sock"
	DefaultMaxImageBytes = 2 << 40
)

// DefaultSubnetPool is the default of Options.SubnetPool: a part of the private
// range 10.0.0.0/8 (RFC 1918) that libvirt, Docker and Podman leave alone.
var DefaultSubnetPool = netip.MustParsePrefix("10.208.0.0/12")

// smallestPool is the longest prefix a subnet pool may have: that of one nat
// network.
const smallestPool = natBits

func (o Options) withDefaults() (Options, error) {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&o.URI, DefaultURI)
	set(&o.Socket, DefaultSocket)
	set(&o.Accelerator, AcceleratorAuto)
	set(&o.QemuImg, "qemu-img")
	if o.MaxImageBytes == 0 {
		o.MaxImageBytes = DefaultMaxImageBytes
	}
	if !o.SubnetPool.IsValid() {
		o.SubnetPool = DefaultSubnetPool
	}
	if o.Logger.GetSink() == nil {
		o.Logger = logr.Discard()
	}
	invalid := func(format string, args ...any) (Options, error) {
		return o, providers.Errorf(providers.ErrInvalid, "kvm provider", format, args...)
	}
	switch {
	case o.Instance == "":
		return invalid("the instance ID is empty")
	case !filepath.IsAbs(o.DataDir):
		return invalid("the data folder %q is not an absolute path", o.DataDir)
	case strings.ContainsAny(o.DataDir, `*?[\`):
		return invalid("the data folder %q has one of the characters *?[\\ in its name, which patterns of file names are made of", o.DataDir)
	case o.Accelerator != AcceleratorAuto && o.Accelerator != AcceleratorKVM && o.Accelerator != AcceleratorTCG:
		return invalid("accelerator %q is not one of auto, kvm and tcg", o.Accelerator)
	case !o.SubnetPool.Addr().Is4() || o.SubnetPool.Bits() > smallestPool:
		return invalid("the subnet pool %s is not an IPv4 prefix of at most /%d", o.SubnetPool, smallestPool)
	}
	o.SubnetPool = o.SubnetPool.Masked()
	o.DataDir = filepath.Clean(o.DataDir)
	return o, nil
}

// Provider is the kvm provider. It implements providers.Provider.
type Provider struct {
	opts  Options
	log   logr.Logger
	data  layout
	conn  *libvirtconn.Client
	img   qemuimg.Tool
	locks *keylock.Set
	fw    *firewall.Firewall
	fwd   *forward.Set
	view  *hostView
	guest *guestStates
	host  *hostFacts
	steps steps
	keys  *keyboard.Set // of the consoles that are typed at
	gone  departed
	boot  string // the run of the host

	life *lifetime.Lifetime // ends with Close
}

var _ providers.Provider = (*Provider)(nil)

// New makes a Provider. It claims the data folder, and is ErrInvalid when that
// belongs to another instance; libvirt need not be up yet.
func New(o Options) (*Provider, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Provider{
		opts:  o,
		log:   o.Logger,
		data:  newLayout(o.DataDir),
		img:   qemuimg.New(o.QemuImg),
		locks: keylock.New(),
		fw:    firewall.New(o.Instance),
		fwd:   forward.NewSet(o.used()),
		boot:  bootID(),
		host:  &hostFacts{choice: o.Accelerator, probe: accel.Probe},
	}
	p.conn = libvirtconn.New(libvirtconn.Options{URI: o.URI, Socket: o.Socket, BeforeChange: p.steps.next, Logger: o.Logger})
	p.view = newHostView(p)
	p.guest = newGuestStates(p.conn.Epoch)
	p.life = lifetime.New()
	p.keys = keyboard.New(p.life.Go)
	if err := p.data.Claim(o.Instance); err != nil {
		return nil, providers.Errorf(providers.ErrInvalid, "data folder "+o.DataDir, "%w", err)
	}
	p.life.Go(p.restoreForwards)
	return p, nil
}

// Name implements providers.Provider.
func (p *Provider) Name() v1.ProviderName { return v1.ProviderKVM }

// Close implements providers.Provider.
func (p *Provider) Close() error {
	p.life.End()
	p.keys.Close()
	p.conn.Close()
	p.fwd.Close()
	p.life.Wait()
	return nil
}

// ready refuses a call whose context has ended or that comes after Close.
func (p *Provider) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.life.Over() {
		return providers.Errorf(providers.ErrUnavailable, "kvm provider", "it was closed, because sandboxd is stopping")
	}
	return nil
}

// Probe implements providers.Provider.
func (p *Provider) Probe(ctx context.Context) (providers.Info, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Info{}, err
	}
	const object = "libvirt"
	lib, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), object, libvirtconn.Quick, (*libvirt.Libvirt).ConnectGetLibVersion)
	if err != nil {
		return providers.Info{}, err
	}
	hv, err := libvirtconn.Get(ctx, p.conn.Lifecycle(), object, libvirtconn.Quick, (*libvirt.Libvirt).ConnectGetVersion)
	if err != nil {
		return providers.Info{}, err
	}
	info := providers.Info{Version: fmt.Sprintf("libvirt %s, QEMU %s", version(lib), version(hv))}
	facts, err := p.facts(ctx)
	if err != nil {
		return providers.Info{}, err
	}
	info.Accelerator, info.Notes = facts.accelerator, facts.notes
	return info, nil
}

// version formats a version as libvirt encodes it.
func version(v uint64) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1000%1000, v%1000)
}

// later does something that a call need not wait for. It ends with the
// provider.
func (p *Provider) later(limit time.Duration, do func(context.Context)) {
	p.life.Go(func() {
		ctx, cancel := context.WithTimeout(p.life.Context(), limit)
		defer cancel()
		do(ctx)
	})
}

// machineObject is what messages call a machine.
func machineObject(id types.UID) string { return "machine " + string(id) }
