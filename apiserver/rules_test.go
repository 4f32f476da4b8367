package apiserver_test

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestDefinitionsInstall checks that an ordinary Kubernetes API server would
// take the definitions: rules compile, their cost is bounded, and so on.
func TestDefinitionsInstall(t *testing.T) {
	files, err := v1.CRDs.ReadDir("crds")
	if err != nil || len(files) == 0 {
		t.Fatalf("no definitions: %v", err)
	}
	for _, file := range files {
		raw, err := v1.CRDs.ReadFile("crds/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(raw, &crd); err != nil {
			t.Fatal(err)
		}
		apiextensionsv1.SetDefaults_CustomResourceDefinition(&crd)
		apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
		crd.Status.StoredVersions = []string{"v1"}
		var internal apiextensions.CustomResourceDefinition
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&crd, &internal, nil); err != nil {
			t.Fatal(err)
		}
		for _, err := range validation.ValidateCustomResourceDefinition(t.Context(), &internal) {
			t.Errorf("%s: %v", file.Name(), err)
		}
	}
}

// with sets a field of an object; a nil value removes it.
func with(u *unstructured.Unstructured, value any, path ...string) *unstructured.Unstructured {
	u = u.DeepCopy()
	if value == nil {
		unstructured.RemoveNestedField(u.Object, path...)
		return u
	}
	if err := unstructured.SetNestedField(u.Object, value, path...); err != nil {
		panic(err)
	}
	return u
}

// list makes a list as JSON has it.
func list(items ...any) []any { return items }

// object makes an object as JSON has it.
func object(pairs ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	return m
}

// network makes a Sandbox with that network.
func network(pairs ...any) *unstructured.Unstructured {
	return with(sandbox("x"), object(pairs...), "spec", "network")
}

func forward(pairs ...any) *unstructured.Unstructured {
	return network("mode", "nat", "portForwards", list(object(pairs...)))
}

func folder(pairs ...any) *unstructured.Unstructured {
	return with(sandbox("x"), list(object(pairs...)), "spec", "sharedFolders")
}

// TestSandboxRules holds every rule of Sandboxes against a manifest that
// breaks it: each is refused with a sentence that names the field.
func TestSandboxRules(t *testing.T) {
	a := newAPI(t)
	long := strings.Repeat("x", 300)
	cases := []struct {
		name    string
		object  *unstructured.Unstructured
		message string
	}{
		{"no spec", with(sandbox("x"), nil, "spec"), `spec: Required value`},
		{"no image", with(sandbox("x"), nil, "spec", "image"), `spec.image: Required value`},
		{"empty image", with(sandbox("x"), "", "spec", "image"), `spec.image in body should be at least 1 chars long`},
		{"long image", with(sandbox("x"), long, "spec", "image"), `spec.image: Too long: may not be more than 253 bytes`},
		{"long name", sandbox(strings.Repeat("n", 64)), `is invalid: sandbox: Invalid value: metadata.name must be at most 63 characters: it is the default hostname`},
		{"bad name", sandbox("Bad_Name"), `metadata.name: Invalid value: "Bad_Name"`},
		{"power state", with(sandbox("x"), "On", "spec", "powerState"), `spec.powerState: Unsupported value: "On": supported values: "Running", "Stopped", "Suspended"`},
		{"no cpus", with(sandbox("x"), int64(0), "spec", "cpus"), `spec.cpus in body should be greater than or equal to 1`},
		{"many cpus", with(sandbox("x"), int64(257), "spec", "cpus"), `spec.cpus in body should be less than or equal to 256`},
		{"cpus in words", with(sandbox("x"), "two", "spec", "cpus"), `spec.cpus in body must be of type integer: "string"`},
		{"little memory", with(sandbox("x"), "63Mi", "spec", "memory"), `spec.memory: Invalid value: "63Mi": memory must be at least 64Mi`},
		{"little memory as a number", with(sandbox("x"), int64(1000), "spec", "memory"), `memory must be at least 64Mi`},
		{"bad memory", with(sandbox("x"), "64 megs", "spec", "memory"), `is invalid: spec.memory: Invalid value: "64 megs": must be a quantity, such as 512Mi or 10G`},
		{"negative memory", with(sandbox("x"), "-1Gi", "spec", "memory"), `memory must be at least 64Mi`},
		{"bad disk", with(sandbox("x"), "big", "spec", "diskSize"), `spec.diskSize: Invalid value: "big"`},
		{"discardOnStop", with(sandbox("x"), "yes", "spec", "discardOnStop"), `spec.discardOnStop in body must be of type boolean`},
		{"network mode", network("mode", "wifi"), `spec.network.mode: Unsupported value: "wifi"`},
		{"bridged without bridge", network("mode", "bridged"), `bridge is required with mode bridged and not allowed with any other`},
		{"bridge without bridged", network("mode", "nat", "bridge", "br0"), `bridge is required with mode bridged and not allowed with any other`},
		{"bridge name", network("mode", "bridged", "bridge", "no/slash"), `spec.network.bridge: Invalid value: "no/slash"`},
		{"long bridge name", network("mode", "bridged", "bridge", "a234567890123456"), `spec.network.bridge: Too long: may not be more than 15 bytes`},
		{"name with nat", network("mode", "nat", "name", "lan"), `name is allowed with mode intnet or hostonly only`},
		{"network name", network("mode", "intnet", "name", "LAN"), `spec.network.name: Invalid value: "LAN"`},
		{"forwards without nat", network("mode", "none", "portForwards", list(object("name", "a", "guestPort", int64(1)))), `portForwards are allowed with mode nat only`},
		{"forward without port", forward("name", "a"), `spec.network.portForwards[0].guestPort: Required value`},
		{"forward without name", forward("guestPort", int64(22)), `spec.network.portForwards[0].name: Required value`},
		{"forward guest port 0", forward("name", "a", "guestPort", int64(0)), `guestPort in body should be greater than or equal to 1`},
		{"forward guest port", forward("name", "a", "guestPort", int64(65536)), `guestPort in body should be less than or equal to 65535`},
		{"forward host port", forward("name", "a", "guestPort", int64(22), "hostPort", int64(65536)), `hostPort in body should be less than or equal to 65535`},
		{"forward negative host port", forward("name", "a", "guestPort", int64(22), "hostPort", int64(-1)), `hostPort in body should be greater than or equal to 0`},
		{"forward address", forward("name", "a", "guestPort", int64(22), "hostAddress", "localhost"), `hostAddress must be an IP address`},
		{"forward protocol", forward("name", "a", "guestPort", int64(22), "protocol", "SCTP"), `protocol: Unsupported value: "SCTP"`},
		{"forward name", forward("name", "SSH!", "guestPort", int64(22)), `spec.network.portForwards[0].name: Invalid value: "SSH!"`},
		{"forwards of one name", network("mode", "nat", "portForwards", list(
			object("name", "a", "guestPort", int64(1)), object("name", "a", "guestPort", int64(2)))), `spec.network.portForwards[1]: Duplicate value`},
		{"many forwards", network("mode", "nat", "portForwards", forwards(33)), `spec.network.portForwards: Too many: 33: must have at most 32 items`},
		{"folder without path", folder("name", "a"), `spec.sharedFolders[0].hostPath: Required value`},
		{"folder with relative path", folder("name", "a", "hostPath", "src"), `spec.sharedFolders[0].hostPath: Invalid value: "src"`},
		{"folder name", folder("name", "A", "hostPath", "/src"), `spec.sharedFolders[0].name: Invalid value: "A"`},
		{"folder mount path", folder("name", "a", "hostPath", "/src", "mountPath", "mnt"), `spec.sharedFolders[0].mountPath: Invalid value: "mnt"`},
		{"folder mount path climbs", folder("name", "a", "hostPath", "/src", "mountPath", "/mnt/../etc"), `mountPath must not contain . or .. elements`},
		{"folder mount path with a dot", folder("name", "a", "hostPath", "/src", "mountPath", "/mnt/./x"), `mountPath must not contain . or .. elements`},
		{"folders of one name", with(sandbox("x"), list(object("name", "a", "hostPath", "/1"), object("name", "a", "hostPath", "/2")), "spec", "sharedFolders"), `spec.sharedFolders[1]: Duplicate value`},
		{"hostname", with(sandbox("x"), "no_underscore", "spec", "cloudInit", "hostname"), `spec.cloudInit.hostname: Invalid value: "no_underscore"`},
		{"ssh key", with(sandbox("x"), list("hello"), "spec", "cloudInit", "sshAuthorizedKeys"), `spec.cloudInit.sshAuthorizedKeys[0]: Invalid value: "hello"`},
		{"ssh key with a line break", with(sandbox("x"), list("ssh-ed25519 AAAA a\nssh-ed25519 AAAA b"), "spec", "cloudInit", "sshAuthorizedKeys"), `spec.cloudInit.sshAuthorizedKeys[0]: Invalid value`},
		{"ssh key twice", with(sandbox("x"), list("ssh-ed25519 AAAA a", "ssh-ed25519 AAAA a"), "spec", "cloudInit", "sshAuthorizedKeys"), `spec.cloudInit.sshAuthorizedKeys[1]: Duplicate value`},
		{"user data", with(sandbox("x"), strings.Repeat("x", 262145), "spec", "cloudInit", "userData"), `spec.cloudInit.userData: Too long: may not be more than 262144 bytes`},
		{"network config", with(sandbox("x"), strings.Repeat("x", 65537), "spec", "cloudInit", "networkConfig"), `spec.cloudInit.networkConfig: Too long: may not be more than 65536 bytes`},
		{"ttl", with(sandbox("x"), "soon", "spec", "lifecycle", "ttl"), `is invalid: spec.lifecycle.ttl: Invalid value: "soon"`},
		{"short ttl", with(sandbox("x"), "10ms", "spec", "lifecycle", "ttl"), `ttl must be at least 1s`},
		{"idle timeout", with(sandbox("x"), "1 hour", "spec", "lifecycle", "idleTimeout"), `spec.lifecycle.idleTimeout: Invalid value: "1 hour"`},
		{"short idle timeout", with(sandbox("x"), "0s", "spec", "lifecycle", "idleTimeout"), `idleTimeout must be at least 1s`},
		{"on expiry", with(sandbox("x"), "Explode", "spec", "lifecycle", "onExpiry"), `spec.lifecycle.onExpiry: Unsupported value: "Explode"`},
		{"restart policy", with(sandbox("x"), "Sometimes", "spec", "restartPolicy"), `spec.restartPolicy: Unsupported value: "Sometimes"`},
		{"readiness mode", with(sandbox("x"), "hope", "spec", "readiness", "mode"), `spec.readiness.mode: Unsupported value: "hope"`},
		{"readiness port", with(sandbox("x"), object("mode", "tcp"), "spec", "readiness"), `port is required with mode tcp`},
		{"readiness port 0", with(sandbox("x"), object("mode", "tcp", "port", int64(0)), "spec", "readiness"), `spec.readiness.port in body should be greater than or equal to 1`},
		{"artifact's path", with(sandbox("x"), list(object("name", "a", "path", "out", "hostPath", "/srv")), "spec", "artifacts"), `spec.artifacts[0].path: Invalid value: "out"`},
		{"artifact without place", with(sandbox("x"), list(object("name", "a", "path", "/out")), "spec", "artifacts"), `spec.artifacts[0].hostPath: Required value`},
		{"revert without request", with(sandbox("x"), object("snapshot", "golden"), "spec", "revertTo"), `spec.revertTo.request: Required value`},
		{"revert without snapshot", with(sandbox("x"), object("request", "1"), "spec", "revertTo"), `spec.revertTo.snapshot: Required value`},
		{"revert with long request", with(sandbox("x"), object("snapshot", "golden", "request", long), "spec", "revertTo"), `spec.revertTo.request: Too long: may not be more than 63 bytes`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := api{t: t, handler: a.handler}
			a.do("POST", sandboxes+"?fieldValidation=Strict", c.object).refused(422, "Invalid", c.message)
		})
	}
	if n := len(a.get(sandboxes).want(200).field("items").([]any)); n != 0 {
		t.Errorf("%d objects were stored all the same", n)
	}
}

func forwards(n int) []any {
	var all []any
	for i := range n {
		all = append(all, object("name", fmt.Sprintf("f%d", i), "guestPort", int64(i+1)))
	}
	return all
}

// TestSandboxUpdateRules holds the rules about changes against changes.
func TestSandboxUpdateRules(t *testing.T) {
	cases := []struct {
		name, patch, message string
	}{
		{"image", `{"spec":{"image":"other"}}`, "image is immutable: delete the sandbox and apply it again"},
		{"fork", `{"spec":{"fromSnapshot":"s"}}`, "fromSnapshot is immutable: delete the sandbox and apply it again"},
		{"shrinking disk", `{"spec":{"diskSize":"1Gi"}}`, "diskSize cannot shrink"},
		{"memory", `{"spec":{"memory":"1Mi"}}`, "memory must be at least 64Mi"},
	}
	a := newAPI(t)
	a.do("POST", sandboxes, with(sandbox("x"), "2Gi", "spec", "diskSize")).want(201)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := api{t: t, handler: a.handler}
			a.do("PATCH", sandboxes+"/x", c.patch, "Content-Type", "application/merge-patch+json").refused(422, "Invalid", c.message)
		})
	}
	for name, patch := range map[string]string{
		"growing disk":          `{"spec":{"diskSize":"3Gi"}}`,
		"the same disk":         `{"spec":{"diskSize":"3072Mi"}}`,
		"removed disk size":     `{"spec":{"diskSize":null}}`,
		"power state":           `{"spec":{"powerState":"Suspended"}}`,
		"whole network at once": `{"spec":{"network":{"mode":"bridged","bridge":"br0"}}}`,
		"back to none":          `{"spec":{"network":{"mode":"none","bridge":null}}}`,
	} {
		if got := a.do("PATCH", sandboxes+"/x", patch, "Content-Type", "application/merge-patch+json"); got.code != 200 {
			t.Errorf("%s was refused: %s", name, got.body)
		}
	}
}

// TestSandboxAccepted checks manifests that must be taken, and the defaults
// that they get.
func TestSandboxAccepted(t *testing.T) {
	a := newAPI(t)
	full := fromYAML(t, `
apiVersion: sandboxd.dev/v1
kind: Sandbox
metadata: {name: full}
spec:
  image: tiny
  powerState: Running
  cpus: 2
  memory: 0.5Gi
  diskSize: 10Gi
  network:
    mode: nat
    portForwards:
    - {name: ssh, guestPort: 22}
    - {name: dns, guestPort: 53, hostPort: 5353, hostAddress: "::1", protocol: UDP}
  sharedFolders:
  - {name: src, hostPath: /srv/src}
  - {name: out, hostPath: /srv/out, readOnly: false, mountPath: /data/out}
  cloudInit:
    hostname: full
    sshAuthorizedKeys:
    - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE user@host
    - ecdsa-sha2-nistp256 AAAA
    userData: "#cloud-config\n"
  lifecycle: {ttl: 1h30m, idleTimeout: 90s}
  readiness: {mode: tcp, port: 80}
  revertTo: {snapshot: golden, request: "1"}
`)
	got := a.do("POST", sandboxes+"?fieldValidation=Strict", full).want(201)
	for path, want := range map[string]any{
		"restartPolicy":      "Always",
		"lifecycle.onExpiry": "Delete",
		"readiness.mode":     "tcp",
		"memory":             "0.5Gi",
	} {
		if v := got.field(append([]string{"spec"}, strings.Split(path, ".")...)...); v != want {
			t.Errorf("spec.%s is %v where %v was expected", path, v, want)
		}
	}
	first := got.field("spec", "network", "portForwards").([]any)[0].(map[string]any)
	if first["hostAddress"] != "127.0.0.1" || first["protocol"] != "TCP" {
		t.Errorf("the defaults of a port forward are %v", first)
	}
	if folder := got.field("spec", "sharedFolders").([]any)[0].(map[string]any); folder["readOnly"] != true {
		t.Errorf("a shared folder is writable by default: %v", folder)
	}
	least := a.do("POST", sandboxes, with(sandbox("least"), nil, "spec", "memory")).want(201)
	for path, want := range map[string]any{"powerState": "Running", "network.mode": "none", "readiness.mode": "agent", "restartPolicy": "Always"} {
		if v := least.field(append([]string{"spec"}, strings.Split(path, ".")...)...); v != want {
			t.Errorf("spec.%s is %v by default where %v was expected", path, v, want)
		}
	}
	for i, memory := range []any{"64Mi", int64(64 << 20), "1G", "1e9", "67108864"} {
		a.do("POST", sandboxes, with(sandbox(fmt.Sprintf("memory-%d", i)), memory, "spec", "memory")).want(201)
	}
	for _, mode := range []string{"none", "intnet", "hostonly", "nat"} {
		u := network("mode", mode)
		u.SetName("mode-" + mode)
		a.do("POST", sandboxes, u).want(201)
	}
	a.do("POST", sandboxes, sandbox(strings.Repeat("n", 63))).want(201)
}

// TestSandboxSnapshotRules holds the rules of snapshots.
func TestSandboxSnapshotRules(t *testing.T) {
	const path = "/apis/sandboxd.dev/v1/namespaces/default/sandboxsnapshots"
	snapshot := func(name string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: object("apiVersion", "sandboxd.dev/v1", "kind", "SandboxSnapshot", "metadata", object("name", name), "spec", spec)}
	}
	a := newAPI(t)
	a.do("POST", path, snapshot("golden", object("sandbox", "x"))).refused(422, "Invalid", "the name golden stands for the state a sandbox was cloned in")
	a.do("POST", path, snapshot("s", object())).refused(422, "Invalid", "spec.sandbox: Required value")
	a.do("POST", path, snapshot("s", object("sandbox", "x"))).want(201)
	a.do("PATCH", path+"/s", `{"spec":{"memory":true}}`, "Content-Type", "application/merge-patch+json").
		refused(422, "Invalid", "a snapshot's spec is immutable: take another one")
}

// image makes a GoldenImage with that spec.
func image(name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "sandboxd.dev/v1", "kind": "GoldenImage", "metadata": map[string]any{"name": name}, "spec": spec,
	}}
}

func diskImage(pairs ...any) *unstructured.Unstructured {
	return image("x", object("source", object("disk", object(pairs...))))
}

func iso(pairs ...any) *unstructured.Unstructured {
	return image("x", object("source", object("iso", object(pairs...))))
}

func TestGoldenImageRules(t *testing.T) {
	a := newAPI(t)
	disk := object("disk", object("path", "a.qcow2"))
	answers := object("user", "root", "passwordSecretRef", object("name", "s"))
	cases := []struct {
		name    string
		object  *unstructured.Unstructured
		message string
	}{
		{"no source", image("x", object()), `spec.source: Required value`},
		{"empty source", image("x", object("source", object())), `exactly one of disk, oci, machine, iso and sandbox must be set`},
		{"two sources", image("x", object("source", object("disk", object("path", "a"), "machine", object("name", "m")))), `exactly one of disk, oci, machine, iso and sandbox must be set`},
		{"no path", diskImage("format", "raw"), `exactly one of path and url must be set`},
		{"path and url", diskImage("path", "a", "url", "http://h/a"), `exactly one of path and url must be set`},
		{"url", diskImage("url", "ftp://h/a"), `spec.source.disk.url: Invalid value: "ftp://h/a"`},
		{"format", diskImage("path", "a", "format", "zip"), `spec.source.disk.format: Unsupported value: "zip"`},
		{"sha256", diskImage("path", "a", "sha256", "ABC"), `spec.source.disk.sha256: Invalid value: "ABC"`},
		{"long path", diskImage("path", strings.Repeat("p", 4097)), `spec.source.disk.path: Too long: may not be more than 4096 bytes`},
		{"machine without name", image("x", object("source", object("machine", object("snapshot", "s")))), `spec.source.machine.name: Required value`},
		{"iso without answers", iso("path", "a.iso"), `spec.source.iso.unattended: Required value`},
		{"iso without file", iso("unattended", answers), `exactly one of path and url must be set`},
		{"iso user", iso("path", "a.iso", "unattended", object("user", "Root User", "passwordSecretRef", object("name", "s"))), `spec.source.iso.unattended.user: Invalid value: "Root User"`},
		{"iso locale", iso("path", "a.iso", "unattended", object("user", "u", "passwordSecretRef", object("name", "s"), "locale", "english")), `spec.source.iso.unattended.locale: Invalid value: "english"`},
		{"iso hostname", iso("path", "a.iso", "unattended", object("user", "u", "passwordSecretRef", object("name", "s"), "hostname", "-a")), `spec.source.iso.unattended.hostname: Invalid value: "-a"`},
		{"iso package", iso("path", "a.iso", "unattended", object("user", "u", "passwordSecretRef", object("name", "s"), "packages", list("vim; rm"))), `spec.source.iso.unattended.packages[0]: Invalid value: "vim; rm"`},
		{"iso disk", iso("path", "a.iso", "diskSize", "huge", "unattended", answers), `spec.source.iso.diskSize: Invalid value: "huge"`},
		{"iso password", iso("path", "a.iso", "unattended", object("user", "u")), `spec.source.iso.unattended.passwordSecretRef: Required value`},
		{"sandbox without namespace", image("x", object("source", object("sandbox", object("name", "s")))), `spec.source.sandbox.namespace: Required value`},
		{"provider", image("x", object("provider", "xen", "source", disk)), `spec.provider: Unsupported value: "xen"`},
		{"memory", image("x", object("source", disk, "machine", object("memory", "1Mi"))), `memory must be at least 64Mi`},
		{"cpus", image("x", object("source", disk, "machine", object("cpus", int64(0)))), `spec.machine.cpus in body should be greater than or equal to 1`},
		{"firmware", image("x", object("source", disk, "machine", object("firmware", "uboot"))), `spec.machine.firmware: Unsupported value: "uboot"`},
		{"os type", image("x", object("source", disk, "machine", object("osType", "a b"))), `spec.machine.osType: Invalid value: "a b"`},
		{"agent", image("x", object("source", disk, "guest", object("agent", "maybe"))), `spec.guest.agent: Unsupported value: "maybe"`},
		{"guest user", image("x", object("source", disk, "guest", object("user", "a b"))), `spec.guest.user: Invalid value: "a b"`},
		{"step without script", image("x", object("source", disk, "provision", list(object("name", "a")))), `exactly one of script and file must be set`},
		{"step name", image("x", object("source", disk, "provision", list(object("name", "A", "script", "true")))), `spec.provision[0].name: Invalid value: "A"`},
		{"step with both", image("x", object("source", disk, "provision", list(object("name", "a", "script", "true", "file", object("path", "/a", "content", ""))))), `exactly one of script and file must be set`},
		{"step's file mode", image("x", object("source", disk, "provision", list(object("name", "a", "file", object("path", "/a", "content", "", "mode", "4755"))))), `spec.provision[0].file.mode: Invalid value: "4755"`},
		{"step's file path", image("x", object("source", disk, "provision", list(object("name", "a", "file", object("path", "etc/x", "content", ""))))), `spec.provision[0].file.path: Invalid value: "etc/x"`},
		{"build network", image("x", object("source", disk, "build", object("network", "bridged"))), `network must be none or nat`},
		{"build timeout", image("x", object("source", disk, "build", object("timeout", "10ms"))), `timeout must be at least 1s`},
		{"history", image("x", object("source", disk, "revisionHistoryLimit", int64(101))), `spec.revisionHistoryLimit in body should be less than or equal to 100`},
		{"digest twice", diskImage("url", "http://h/a", "sha256", strings.Repeat("a", 64), "checksumURL", "http://h/SHA256SUMS"), `at most one of sha256 and checksumURL may be set`},
		{"checksums of a path", diskImage("path", "a", "checksumURL", "http://h/SHA256SUMS"), `checksumURL is allowed with url only`},
		{"oci without place", image("x", object("source", object("oci", object("tag", "a")))), `exactly one of reference and layout must be set`},
		{"oci digest", image("x", object("source", object("oci", object("reference", "h/a:b", "digest", "sha256:0")))), `spec.source.oci.digest: Invalid value: "sha256:0"`},
		{"steps of one name", image("x", object("source", disk, "provision", list(object("name", "a", "script", "1"), object("name", "a", "script", "2")))), `spec.provision[1]: Duplicate value`},
		{"bad name", image("Bad Name", object("source", disk)), `metadata.name: Invalid value: "Bad Name"`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := api{t: t, handler: a.handler}
			a.do("POST", goldenImages+"?fieldValidation=Strict", c.object).refused(422, "Invalid", c.message)
		})
	}
	got := a.do("POST", goldenImages+"?fieldValidation=Strict", image("ok", object("provider", "kvm", "source", disk))).want(201)
	if got.field("spec", "guest", "agent") != "Installed" || got.field("spec", "guest", "user") != "root" {
		t.Errorf("the defaults of guest access are %v", got.field("spec", "guest"))
	}
	a.do("PATCH", goldenImages+"/ok", `{"spec":{"provider":"virtualbox"}}`, "Content-Type", "application/merge-patch+json").
		refused(422, "Invalid", "provider is immutable: make another GoldenImage for another provider")
	a.do("PATCH", goldenImages+"/ok", `{"spec":{"provider":null}}`, "Content-Type", "application/merge-patch+json").
		refused(422, "Invalid", "provider is immutable")
	a.do("PATCH", goldenImages+"/ok", `{"spec":{"source":{"disk":{"path":"b.qcow2"}}}}`, "Content-Type", "application/merge-patch+json").want(200)
	a.do("POST", goldenImages+"?fieldValidation=Strict", with(iso("path", "a.iso", "unattended", answers), "iso", "metadata", "name")).want(201)
}
