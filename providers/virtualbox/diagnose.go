package virtualbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/internal/files"
	"sandboxd.dev/sandboxd/providers/internal/qemuimg"
	"sandboxd.dev/sandboxd/providers/virtualbox/internal/vboxmanage"
)

const (
	// driver is the device of VirtualBox's kernel driver on Linux, adapterDriver
	// that of the driver of host-only adapters.
	driver        = "/dev/vboxdrv"
	adapterDriver = "/dev/vboxnetctl"
	// networksConf names the ranges that host-only networks may have on Linux,
	// if it is there.
	networksConf = "/etc/vbox/networks.conf"
)

// The least version that is supported, and the least with guest control as it is
// used here and with a choice of execution engines.
const (
	leastMajor        = 7
	controlMajorMinor = 702
)

// Installed tells whether the host has VirtualBox, as far as VBoxManage shows.
func Installed(manage string) bool {
	_, err := vboxmanage.Find(manage)
	return err == nil
}

func ok(check, format string, args ...any) providers.Finding {
	return providers.Finding{Check: check, Severity: providers.SeverityOK, Message: fmt.Sprintf(format, args...)}
}

func warning(check, fix, format string, args ...any) providers.Finding {
	return providers.Finding{Check: check, Severity: providers.SeverityWarning, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func missing(check, fix, format string, args ...any) providers.Finding {
	return providers.Finding{Check: check, Severity: providers.SeverityMissing, Message: fmt.Sprintf(format, args...), Fix: fix}
}

// Diagnose looks at everything on the host that a provider of these options
// needs, and changes nothing.
func Diagnose(ctx context.Context, o Options) []providers.Finding {
	if o.Instance == "" {
		o.Instance = "diagnosis"
	}
	o, err := o.withDefaults()
	if err != nil {
		return []providers.Finding{missing("virtualbox options", "correct the configuration", "%v", err)}
	}
	c := vboxmanage.New(vboxmanage.Options{Program: o.Manage, UserHome: o.UserHome})
	defer c.Close()
	const check = "VirtualBox"
	version, err := c.Version(ctx)
	if err != nil {
		return []providers.Finding{missing(check, "install VirtualBox 7.0 or newer, or set virtualbox.manage (VBOX_MANAGE_PATH)", "%v", err)}
	}
	findings := []providers.Finding{judgeVersion(version, o.Engine)}
	if _, err := c.List(ctx, check, "vms"); err != nil {
		findings = append(findings, missing("VBoxSVC", "look at VBoxSVC.log in VirtualBox's folder of settings", "it does not answer: %v", err))
	} else {
		findings = append(findings, ok("VBoxSVC", "it answers"))
	}
	if runtime.GOOS == "linux" {
		conf, err := os.ReadFile(networksConf)
		findings = append(findings, judgeDriver(o.Engine, files.Exists(driver)), judgeHostOnly(o, files.Exists(adapterDriver), string(conf), err == nil))
	}
	return append(findings, diagnosePrograms(o))
}

var versionPattern = regexp.MustCompile(`^(\d{1,3})\.(\d{1,3})\.\d`)

// judgeVersion reads a version such as 7.2.22_Debianr175245.
func judgeVersion(version, engine string) providers.Finding {
	const check, fix = "VirtualBox", "upgrade VirtualBox"
	m := versionPattern.FindStringSubmatch(version)
	if m == nil {
		return warning(check, "", "its version %q is not understood", version)
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	switch {
	case major < leastMajor:
		return missing(check, fix, "version %s is older than 7.0", version)
	case major*100+minor < controlMajorMinor && engine != EngineDefault:
		return missing(check, fix+", or leave virtualbox.executionEngine at default", "version %s has no choice of execution engines, which 7.2 brought", version)
	case major*100+minor < controlMajorMinor:
		return warning(check, fix, "version %s works, but commands in guests need 7.2", version)
	}
	return ok(check, "version %s; no Extension Pack is needed", version)
}

func judgeDriver(engine string, loaded bool) providers.Finding {
	const check = "VirtualBox's driver"
	switch {
	case loaded:
		return ok(check, "it is loaded")
	case engine == EngineInterpreter || engine == EngineRecompiler:
		return warning(check, "", "it is not loaded: machines are run by the %s, slowly, and with network modes none and nat only", engine)
	}
	return missing(check, "modprobe vboxdrv (Debian: apt-get install virtualbox-dkms)", "it is not loaded (%s is missing): no machine starts", driver)
}

// judgeHostOnly looks whether networks of mode hostonly are possible, and whether
// VirtualBox lets them have subnets of the pool.
func judgeHostOnly(o Options, loaded bool, conf string, has bool) providers.Finding {
	const check = "host-only networks"
	if !loaded {
		return warning(check, "modprobe vboxnetadp", "their driver is not loaded (%s is missing): network mode hostonly is not possible", adapterDriver)
	}
	allowed := []string{DefaultSubnetPool.String()}
	if has {
		allowed = nil
		for line := range strings.Lines(conf) {
			if rest, found := strings.CutPrefix(strings.TrimSpace(line), "*"); found {
				allowed = append(allowed, strings.Fields(rest)...)
			}
		}
	}
	for _, a := range allowed {
		if covers(a, o.SubnetPool) {
			return ok(check, "VirtualBox allows the subnets of %s", o.SubnetPool)
		}
	}
	return warning(check, fmt.Sprintf("add the line \"* %s\" to %s, or set virtualbox.subnetPool", o.SubnetPool, networksConf),
		"VirtualBox allows host-only networks in %s only, and the subnet pool is %s", strings.Join(allowed, ", "), o.SubnetPool)
}

func diagnosePrograms(o Options) providers.Finding {
	const check = "qemu-img"
	install := "apt-get install qemu-utils"
	if runtime.GOOS == "darwin" {
		install = "brew install qemu"
	}
	path, err := exec.LookPath(o.QemuImg)
	switch {
	case err != nil:
		return missing(check, install, "it is not installed: no image can be imported")
	case runtime.GOOS == "darwin":
		return ok(check, "%s is there; on macOS nothing confines it to the image that it reads", path)
	case !qemuimg.Confined():
		return warning(check, "boot with landlock in the kernel's lsm= list", "%s runs unconfined on images, because the kernel has no Landlock", path)
	}
	return ok(check, "%s is there", path)
}
