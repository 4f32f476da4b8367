package virtualbox

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/keyboard"
	"sandboxd.dev/sandboxd/providers/internal/keylock"
	"sandboxd.dev/sandboxd/providers/internal/lifetime"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

// Execution engines of Options.
const (
	// EngineDefault lets VirtualBox choose.
	EngineDefault = "default"
	// EngineNative runs on the processor's virtualization, by VirtualBox's driver.
	EngineNative = "native"
	// EngineInterpreter and EngineRecompiler need neither; they are slow.
	EngineInterpreter = "interpreter"
	EngineRecompiler  = "recompiler"
)

// Options of a Provider. Instance and DataDir are required.
type Options struct {
	// Instance that everything made is tagged with.
	Instance providers.Instance
	// DataDir holds images and machines; absolute, of this instance alone.
	DataDir string
	// Manage is the VBoxManage program: a path, or a name to look for; default
	// VBoxManage.
	Manage string
	// UserHome is VirtualBox's folder of settings; default the user's own.
	UserHome string
	// Engine that runs machines; default EngineDefault. The others need
	// VirtualBox 7.2.
	Engine string
	// SubnetPool that the subnets of hostonly networks are taken from; default
	// 192.168.56.0/21, all that VirtualBox allows on Linux unless its
	// networks.conf says more.
	SubnetPool netip.Prefix
	// MaxImageBytes bounds the virtual size of an image; default 2 TiB.
	MaxImageBytes int64
	// DownloadStall is how long the server of an image's source may send nothing;
	// default one minute.
	DownloadStall time.Duration
	// QemuImg is the qemu-img program; default qemu-img.
	QemuImg string
	// Logins are asked who commands in guests run as.
	Logins providers.Logins
	// Logger gets changes of state; default none.
	Logger logr.Logger

	system string            // as runtime.GOOS, for tests
	links  func(string) bool // whether the host has a link, for tests
}

// DefaultMaxImageBytes is the default of Options.MaxImageBytes.
const DefaultMaxImageBytes = 2 << 40

// DefaultSubnetPool is the default of Options.SubnetPool.
var DefaultSubnetPool = netip.MustParsePrefix("192.168.56.0/21")

func (o Options) withDefaults() (Options, error) {
	if o.Engine == "" {
		o.Engine = EngineDefault
	}
	if o.QemuImg == "" {
		o.QemuImg = "qemu-img"
	}
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
		return o, providers.Errorf(providers.ErrInvalid, "virtualbox provider", format, args...)
	}
	switch o.Engine {
	case EngineDefault, EngineNative, EngineInterpreter, EngineRecompiler:
	default:
		return invalid("execution engine %q is not one of default, native, interpreter and recompiler", o.Engine)
	}
	switch {
	case o.Instance == "":
		return invalid("the instance ID is empty")
	case !filepath.IsAbs(o.DataDir):
		return invalid("the data folder %q is not an absolute path", o.DataDir)
	case o.UserHome != "" && !filepath.IsAbs(o.UserHome):
		return invalid("VirtualBox's folder of settings %q is not an absolute path", o.UserHome)
	case !o.SubnetPool.Addr().Is4() || o.SubnetPool.Bits() > hostonlyBits:
		return invalid("the subnet pool %s is not an IPv4 prefix of at most /%d", o.SubnetPool, hostonlyBits)
	}
	o.SubnetPool = o.SubnetPool.Masked()
	o.DataDir = filepath.Clean(o.DataDir)
	return o, nil
}

// Provider is the virtualbox provider. It implements providers.Provider.
type Provider struct {
	opts  Options
	log   logr.Logger
	data  layout
	vbox  *vboxmanage.Client
	img   qemuimg.Tool
	locks *keylock.Set
	ports *portTable
	watch *watcher
	logs  *logs
	guest *guestStates
	steps steps

	drifts driftNotes

	keys  *keyboard.Set // of the consoles that are typed at
	wires *wires

	life *lifetime.Lifetime // ends with Close
}

var _ providers.Provider = (*Provider)(nil)

// New makes a Provider. It claims the data folder, and is ErrInvalid when that
// belongs to another instance; VirtualBox need not be there yet.
func New(o Options) (*Provider, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Provider{
		opts: o, log: o.Logger, data: newLayout(o.DataDir),
		img: qemuimg.New(o.QemuImg), locks: keylock.New(),
		ports: newPortTable(), watch: newWatcher(), logs: newLogs(), guest: newGuestStates(o.Engine),
	}
	p.vbox = vboxmanage.New(vboxmanage.Options{Program: o.Manage, UserHome: o.UserHome, BeforeChange: p.steps.next, OnDelay: p.endOrphans})
	p.life = lifetime.New()
	p.keys, p.wires = keyboard.New(p.life.Go), newWires()
	if err := p.data.Claim(o.Instance, p.data.networks(), p.data.ttys()); err != nil {
		return nil, providers.Errorf(providers.ErrInvalid, "data folder "+o.DataDir, "%w", err)
	}
	if err := errors.Join(p.data.clearLogins(), p.claimPorts()); err != nil {
		return nil, providers.Errorf(providers.ErrInvalid, "data folder "+o.DataDir, "%w", err)
	}
	p.settleLeft()
	return p, nil
}

// claimPorts takes the host ports that machines were given before.
func (p *Provider) claimPorts() error {
	ids, err := p.data.machineIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if r, err := p.readRecord(id); err == nil {
			p.ports.claim(id, r.Network.PortForwards)
		}
	}
	return nil
}

// Name implements providers.Provider.
func (p *Provider) Name() v1.ProviderName { return v1.ProviderVirtualBox }

const (
	// goodbye bounds what Close waits for guests, where the commands that are
	// under way are killed. It is half of what a service manager gives a daemon,
	// as a rule.
	goodbye = 30 * time.Second
	// afterwards bounds the end of the VBoxManage that waits for a guest which
	// has not answered until then.
	afterwards = 5 * time.Second
)

// Close implements providers.Provider. Commands in guests are killed, as far as a
// guest answers soon, and calls of VBoxManage that are under way come to their end
// first.
func (p *Provider) Close() error {
	p.endTyping()
	p.life.End()
	p.keys.Close()
	p.guest.close(goodbye)
	p.vbox.Close()
	p.guest.close(afterwards)
	p.life.Wait()
	return nil
}

// ready refuses a call whose context has ended or that comes after Close.
func (p *Provider) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.life.Over() {
		return providers.Errorf(providers.ErrUnavailable, "virtualbox provider", "it was closed, because sandboxd is stopping")
	}
	return nil
}

// Probe implements providers.Provider. That VBoxSVC answers is seen too.
func (p *Provider) Probe(ctx context.Context) (providers.Info, error) {
	if err := p.ready(ctx); err != nil {
		return providers.Info{}, err
	}
	version, err := p.vbox.Version(ctx)
	if err != nil {
		return providers.Info{}, err
	}
	if _, err := p.list(ctx); err != nil {
		return providers.Info{}, err
	}
	info := providers.Info{Version: "VirtualBox " + version, Accelerator: accelerator(p.opts.Engine)}
	if !strings.Contains(info.Accelerator, EngineNative) {
		info.Notes = append(info.Notes, "machines are run by VirtualBox's "+info.Accelerator+", hundreds of times slower than the processor: it is for tests")
	} else if !files.Exists(driver) {
		info.Notes = append(info.Notes, "VirtualBox's kernel driver is not loaded ("+driver+" is missing): no machine starts until it is")
	}
	return info, nil
}

// accelerator is the word for an engine in a machine's status.
func accelerator(engine string) string {
	if engine == EngineDefault || engine == "" {
		return EngineNative
	}
	return engine
}

// list asks which machines there are.
func (p *Provider) list(ctx context.Context) (vboxmanage.Listing, error) {
	out, err := p.vbox.List(ctx, "VirtualBox", "vms", "runningvms")
	if err != nil {
		return vboxmanage.Listing{}, err
	}
	return vboxmanage.ParseListing(out), nil
}

// manage makes a call that changes a machine.
func (p *Provider) manage(ctx context.Context, id types.UID, limit time.Duration, args ...string) (vboxmanage.Output, error) {
	return p.vbox.Run(ctx, vboxmanage.Call{Object: machineObject(id), VM: string(id), Args: args, Limit: limit})
}

// fileError gives an error of the data folder a kind.
func (p *Provider) fileError(object string, err error) error {
	return p.data.Error(object, err)
}

// machineObject is what messages call a machine.
func machineObject(id types.UID) string { return "machine " + string(id) }

func imageObject(ref providers.ImageRef) string { return "image " + ref.String() }
