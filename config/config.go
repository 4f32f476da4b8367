// Package config is the daemon's configuration.
//
//	flags ──over──▶ environment ──over──▶ YAML file ──over──▶ defaults
//
// Every setting has one name in each of them, all derived from its path in the
// file: kvm.subnetPool is the flag --kvm-subnet-pool and the variable
// SANDBOXD_KVM_SUBNET_POOL. (One flag is shorter: --manifests is manifests.dir.) Settings lists them all; the help of `sandboxd
// serve` and docs/configuration.md are made from that list. What is not known
// or cannot be read is refused with its name, never ignored.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// Config is everything that can be set. Load makes a valid one.
type Config struct {
	// DataDir holds the store, images and machines.
	DataDir string
	// Socket is the unix socket that the API is served on.
	Socket string
	// Listen are the addresses of TCP, as ADDRESS:PORT, that the API is served on
	// over TLS besides the socket; none unless set.
	Listen []string
	TLS    TLS
	// Kubeconfig reaches the Kubernetes API server that keeps the objects; empty means
	// that the daemon keeps them itself, and KubeconfigInCluster that it runs in a Pod.
	Kubeconfig string
	Cluster    Cluster
	// Hypervisor is the provider of images that name none.
	Hypervisor v1.ProviderName
	KVM        KVM
	VirtualBox VirtualBox
	// BaseImageDir is where relative image paths are looked up.
	BaseImageDir string
	// AllowedHostPaths are the roots below which manifests may name files and
	// directories of the host.
	AllowedHostPaths []string
	Defaults         Defaults
	// Capacity is what machines share.
	Capacity Capacity
	// Workers is how many sandboxes are worked on at a time.
	Workers int
	// Resync is how often settled objects are looked at without being woken.
	Resync time.Duration
	GC     GC
	// Manifests are applied from a directory.
	Manifests Manifests
	Log       Log
	Audit     Audit
	// Metrics say where they are served besides the socket.
	Metrics Metrics
	// Profiling serves profiles of the daemon on its socket.
	Profiling bool
}

// TLS is about the daemon's own certificate.
type TLS struct {
	// Names that clients call this host by, besides its own and the addresses of
	// Listen: names and addresses.
	Names []string
}

// Audit is about the log of what was asked for.
type Audit struct {
	// File it is; AuditNone means none.
	File string
	// MaxSize of a file in bytes, and MaxFiles how many there are.
	MaxSize  resource.Quantity
	MaxFiles int
	// Sync: a line is on the disk before its request is answered.
	Sync bool
	// Commands: all words of commands are recorded.
	Commands bool
}

// AuditNone is no audit log.
const AuditNone = "none"

// KubeconfigInCluster stands for the service account of the daemon's own Pod.
const KubeconfigInCluster = "in-cluster"

// Cluster is for a daemon that has a kubeconfig.
type Cluster struct {
	// Namespace of the Lease that says which host serves the cluster.
	Namespace string
	// Accept is the fingerprint of a cluster that this host may belong to although it
	// belonged to another.
	Accept string
}

// Metrics are for Prometheus.
type Metrics struct {
	// Address of TCP that they are served on, as HOST:PORT; empty means none.
	// Whoever reaches it reads them.
	Address string
}

// KVM configures the provider kvm.
type KVM struct {
	// URI of libvirt's driver.
	URI string
	// Socket of libvirt's daemon.
	Socket string
	// Accelerator of new machines: auto, kvm or tcg.
	Accelerator string
	// SubnetPool that hostonly and nat networks are taken from.
	SubnetPool netip.Prefix
}

// VirtualBox configures the provider virtualbox.
type VirtualBox struct {
	// Manage is the VBoxManage program: a path, or a name to look for.
	Manage string
	// MachineFolder holds images and machines.
	MachineFolder string
	// UserHome is VirtualBox's folder of settings; empty means the user's own.
	UserHome string
	// ExecutionEngine of machines.
	ExecutionEngine Engine
	// SubnetPool that hostonly networks are taken from.
	SubnetPool netip.Prefix
}

// Engine is what VirtualBox runs machines with.
type Engine string

// The engines. All but the first need VirtualBox 7.2.
const (
	EngineDefault     Engine = "default"
	EngineNative      Engine = "native"
	EngineInterpreter Engine = "interpreter"
	EngineRecompiler  Engine = "recompiler"
)

// Defaults of the host, for what neither a sandbox nor its image says.
type Defaults struct {
	CPUs   int32
	Memory resource.Quantity
}

// Capacity is what the host has for machines. What is 0 is worked out from the host;
// Sandboxes, the number of machines, has no limit then.
type Capacity struct {
	Memory     resource.Quantity
	CPUs       int
	Disk       resource.Quantity
	Sandboxes  int
	Overcommit Overcommit
}

// Overcommit are the factors by which more is given away than there is; 0 takes the
// limit away.
type Overcommit struct {
	Memory, CPUs, Disk float64
}

// GC paces the garbage collection.
type GC struct {
	Interval time.Duration
	Grace    time.Duration
}

// Manifests say which directory is applied all the time.
type Manifests struct {
	// Dir is the directory; empty means none.
	Dir string
	// Interval between two looks at it.
	Interval time.Duration
	// Prune: objects that leave it are deleted.
	Prune bool
	// PruneHold is how long it must have stayed as it is before more than half of
	// what was applied from it is deleted at once.
	PruneHold time.Duration
}

// Log says what is logged, and how.
type Log struct {
	Level  Level
	Format Format
}

// Level is how much is logged.
type Level string

// The levels. Each includes those after it.
const (
	LevelDebug Level = "debug"
	LevelInfo  Level = "info"
	LevelError Level = "error"
)

// Format is the form of log lines.
type Format string

// The formats.
const (
	FormatText Format = "text"
	FormatJSON Format = "json"
)

// maxWorkers is the most that is accepted.
const maxWorkers = 1024

// minAudit is the least size of a file of the audit log, and maxAuditFiles how many
// there may be.
var minAudit = resource.MustParse("64Ki")

const maxAuditFiles = 1000

// minMemory is the least memory of a machine, as in the API.
var minMemory = resource.MustParse("64Mi")

// SystemFile is the configuration file that is read when it exists and none is
// named.
const SystemFile = "/etc/sandboxd/config.yaml"

// Default is the configuration of a host on which nothing was set.
func Default(h Host) Config {
	c := Config{
		DataDir:    h.systemData(),
		Socket:     h.systemSocket(),
		Cluster:    Cluster{Namespace: "sandboxd-system"},
		Hypervisor: v1.ProviderKVM,
		KVM: KVM{
			URI: "qemu:///system", Socket: "/var/run/libvirt/libvirt-sock",
			Accelerator: "auto", SubnetPool: netip.MustParsePrefix("10.208.0.0/12"),
		},
		VirtualBox: VirtualBox{
			Manage: "VBoxManage", ExecutionEngine: EngineDefault, SubnetPool: netip.MustParsePrefix("192.168.56.0/21"),
		},
		Defaults: Defaults{CPUs: 1, Memory: resource.MustParse("512Mi")},
		Capacity: Capacity{Overcommit: Overcommit{Memory: 1, CPUs: 1, Disk: 1}},
		Workers:  16,
		Resync:   time.Minute,
		GC:       GC{Interval: time.Minute, Grace: 2 * time.Minute},
		Audit:    Audit{MaxSize: resource.MustParse("32Mi"), MaxFiles: 8},
		Log:      Log{Level: LevelInfo, Format: FormatText},
	}
	c.Manifests = Manifests{Interval: 15 * time.Second, Prune: true, PruneHold: 5 * time.Minute}
	if !h.Root {
		c.DataDir = filepath.Join(h.dataHome(), "sandboxd")
		c.Socket = h.userSocket()
	}
	if h.macOS() {
		c.Hypervisor = v1.ProviderVirtualBox // there is no other
	}
	return c
}

// finish fills in what follows from other settings, and validates.
func (c *Config) finish(h Host) error {
	if c.BaseImageDir == "" && c.DataDir != "" {
		c.BaseImageDir = filepath.Join(c.DataDir, "base-images")
	}
	if c.VirtualBox.MachineFolder == "" && c.DataDir != "" {
		c.VirtualBox.MachineFolder = filepath.Join(c.DataDir, "virtualbox")
	}
	if c.Audit.File == "" && c.DataDir != "" {
		c.Audit.File = filepath.Join(c.DataDir, "audit", "audit.log")
	}
	for _, p := range []struct{ name, path string }{
		{"dataDir", c.DataDir},
		{"socket", c.Socket},
		{"baseImageDir", c.BaseImageDir},
		{"kvm.socket", c.KVM.Socket},
		{"virtualbox.machineFolder", c.VirtualBox.MachineFolder},
	} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("%s %q is not an absolute path", p.name, p.path)
		}
	}
	if c.Audit.File != AuditNone && !filepath.IsAbs(c.Audit.File) {
		return fmt.Errorf("audit.file %q is neither an absolute path nor %q", c.Audit.File, AuditNone)
	}
	if most := h.maxSocket(); len(c.Socket) > most {
		return fmt.Errorf("socket %q is longer than the %d bytes that a unix socket's path may have", c.Socket, most)
	}
	if c.Kubeconfig != "" && c.Kubeconfig != KubeconfigInCluster && !filepath.IsAbs(c.Kubeconfig) {
		return fmt.Errorf("kubeconfig %q is neither an absolute path nor %s", c.Kubeconfig, KubeconfigInCluster)
	}
	if home := c.VirtualBox.UserHome; home != "" && !filepath.IsAbs(home) {
		return fmt.Errorf("virtualbox.userHome %q is not an absolute path", home)
	}
	switch dir := c.Manifests.Dir; {
	case dir != "" && !filepath.IsAbs(dir):
		return fmt.Errorf("manifests.dir %q is not an absolute path", dir)
	case dir != "" && c.Kubeconfig != "":
		return errors.New("manifests.dir and kubeconfig exclude one another: a cluster has GitOps tools of its own, see docs/gitops.md")
	case len(c.Listen) > 0 && c.Kubeconfig != "":
		return errors.New("listen and kubeconfig exclude one another: clients on the network use the cluster's API server, see docs/cluster.md")
	case dir != "":
		c.Manifests.Dir = filepath.Clean(dir) // it names what was applied from there, which another spelling must not orphan
	}
	for _, name := range c.TLS.Names {
		if _, err := netip.ParseAddr(name); err != nil && len(validation.IsDNS1123Subdomain(strings.TrimPrefix(name, "*."))) > 0 {
			return fmt.Errorf("tls.names: %q is neither a name nor an address of a host", name)
		}
	}
	for _, root := range c.AllowedHostPaths {
		if !filepath.IsAbs(root) {
			return fmt.Errorf("allowedHostPaths: %q is not an absolute path", root)
		}
	}
	return c.checkNumbers()
}

func (c *Config) checkNumbers() error {
	switch {
	case !slices.Contains([]string{"auto", "kvm", "tcg"}, c.KVM.Accelerator):
		return fmt.Errorf("kvm.accelerator %q is not one of auto, kvm and tcg", c.KVM.Accelerator)
	case !c.KVM.SubnetPool.Addr().Is4() || c.KVM.SubnetPool.Bits() > 20:
		return fmt.Errorf("kvm.subnetPool %s is not an IPv4 prefix of at most /20", c.KVM.SubnetPool)
	case !c.VirtualBox.SubnetPool.Addr().Is4() || c.VirtualBox.SubnetPool.Bits() > 24:
		return fmt.Errorf("virtualbox.subnetPool %s is not an IPv4 prefix of at most /24", c.VirtualBox.SubnetPool)
	case c.Defaults.CPUs < 1 || c.Defaults.CPUs > 256:
		return fmt.Errorf("defaults.cpus %d is not between 1 and 256", c.Defaults.CPUs)
	case c.Defaults.Memory.Cmp(minMemory) < 0:
		return fmt.Errorf("defaults.memory %s is less than %s", c.Defaults.Memory.String(), minMemory.String())
	case c.Capacity.Memory.Sign() < 0 || c.Capacity.Disk.Sign() < 0 || c.Capacity.CPUs < 0 || c.Capacity.Sandboxes < 0:
		return fmt.Errorf("capacity: none of memory %s, cpus %d, disk %s and sandboxes %d may be less than 0",
			c.Capacity.Memory.String(), c.Capacity.CPUs, c.Capacity.Disk.String(), c.Capacity.Sandboxes)
	case c.Audit.MaxSize.Cmp(minAudit) < 0:
		return fmt.Errorf("audit.maxSize %s is less than %s", c.Audit.MaxSize.String(), minAudit.String())
	case c.Audit.MaxFiles < 2 || c.Audit.MaxFiles > maxAuditFiles:
		return fmt.Errorf("audit.maxFiles %d is not between 2 and %d", c.Audit.MaxFiles, maxAuditFiles)
	case c.Workers < 1 || c.Workers > maxWorkers:
		return fmt.Errorf("workers %d is not between 1 and %d", c.Workers, maxWorkers)
	case c.Resync < time.Second:
		return fmt.Errorf("resync %v is less than 1s", c.Resync)
	case c.GC.Interval < time.Second:
		return fmt.Errorf("gc.interval %v is less than 1s", c.GC.Interval)
	case c.GC.Grace < time.Second:
		return fmt.Errorf("gc.grace %v is less than 1s", c.GC.Grace)
	case c.Manifests.Interval < time.Second:
		return fmt.Errorf("manifests.interval %v is less than 1s", c.Manifests.Interval)
	case c.Manifests.PruneHold < 0:
		return fmt.Errorf("manifests.pruneHold %v is less than 0", c.Manifests.PruneHold)
	}
	return nil
}
