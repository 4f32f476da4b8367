package kubectl_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

var createChecks = []check{
	{"create -f", 0, func(k *kubectl) {
		file := k.file("one.yaml", stopped("one"))
		k.ok("create", "-f", file).is("sandbox.sandboxd.dev/one created").quiet()
		k.fails(1, "create", "-f", file).says(`^Error from server \(AlreadyExists\): error when creating .*: sandboxes.sandboxd.dev "one" already exists$`)
	}},
	{"create from standard input, in JSON", 0, func(k *kubectl) {
		k.pipe(`{"apiVersion": "sandboxd.dev/v1", "kind": "Sandbox", "metadata": {"name": "one"}, "spec": {"image": "tiny", "powerState": "Stopped"}}`,
			"create", "-f", "-").is("sandbox.sandboxd.dev/one created")
	}},
	{"create with generateName", 0, func(k *kubectl) {
		k.pipe("apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {generateName: gen-}\nspec: {image: tiny, powerState: Stopped}\n",
			"create", "-f", "-").has(`^sandbox.sandboxd.dev/gen-[a-z0-9]{5} created$`)
	}},
	{"create -f of a folder", 0, func(k *kubectl) {
		k.file("all/a.yaml", stopped("a"))
		k.file("all/b.json", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"b"}}`)
		k.ok("create", "-f", "all").has(`^sandbox.sandboxd.dev/a created$`, `^secret/b created$`)
	}},
	{"create of a List", 0, func(k *kubectl) {
		k.pipe("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: a}}\n- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n",
			"create", "-f", "-").is("secret/a created\nsecret/b created")
	}},
	{"create --dry-run=client makes nothing", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "create", "-f", "-", "--dry-run=client").is("sandbox.sandboxd.dev/one created (dry run)")
		k.gone("sbx/one")
	}},
	{"create --dry-run=server applies defaults and makes nothing", 0, func(k *kubectl) {
		k.pipe(sandbox("one", "", ""), "create", "-f", "-", "--dry-run=server", "-o", "jsonpath={.spec.powerState} {.metadata.uid}").has(`^Running [0-9a-f-]{36}$`)
		k.gone("sbx/one")
		r := k.run(strings.Replace(stopped("one"), "image: tiny", "image: 7", 1), "create", "-f", "-", "--dry-run=server", "--validate=false")
		r.ended(1).says(`spec.image`)
	}},
	{"create -o yaml", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "create", "-f", "-", "-o", "yaml").has(`^kind: Sandbox$`, `^  uid: `)
	}},
	{"create --save-config", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "create", "-f", "-", "--save-config")
		k.ok("apply", "view-last-applied", "sbx/one").has(`powerState: Stopped`)
		k.pipe(stopped("one"), "apply", "-f", "-").is("sandbox.sandboxd.dev/one unchanged").quiet()
	}},
	{"create --edit", 0, func(k *kubectl) {
		k.editor(`sed -i 's/powerState: Stopped/powerState: Suspended/' "$1"`)
		k.ok("create", "--edit", "-f", k.file("one.yaml", stopped("one"))).has(`one (created|edited)`)
		if got := k.get("sbx/one", ".spec.powerState"); got != "Suspended" {
			k.t.Errorf("it is %s", got)
		}
	}},
	{"create --raw", 0, func(k *kubectl) {
		file := k.file("one.json", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"raw"}}`)
		k.ok("create", "--raw", "/api/v1/namespaces/"+k.ns+"/secrets", "-f", file).has(`"uid":`)
		k.ok("get", "secret", "raw")
	}},
	{"create --validate=strict refuses an unknown field", 25, func(k *kubectl) {
		r := k.run(sandbox("one", "", "colour: green"), "create", "-f", "-", "--validate=strict").ended(1)
		r.says(`strict decoding error: unknown field "spec.colour"`)
		k.gone("sbx/one")
	}},
	{"create refuses an unknown field without being asked", 0, func(k *kubectl) {
		r := k.run(sandbox("one", "", "colour: green"), "create", "-f", "-").ended(1)
		r.says(`unknown field "(spec\.)?colour"`)
		k.gone("sbx/one")
	}},
	{"create --validate=warn", 25, func(k *kubectl) {
		k.pipe(sandbox("one", "", "powerState: Stopped\n  colour: green"), "create", "-f", "-", "--validate=warn").
			is("sandbox.sandboxd.dev/one created").says(`^Warning: unknown field "spec.colour"$`)
	}},
	{"create --validate=ignore", 25, func(k *kubectl) {
		k.pipe(sandbox("one", "", "powerState: Stopped\n  colour: green"), "create", "-f", "-", "--validate=ignore").quiet()
		k.ok("get", "sbx", "one", "-o", "yaml").lacks(`colour: green$`)
	}},
	{"create --raw refuses a field that is there twice", 0, func(k *kubectl) {
		file := k.file("twice.json", `{"apiVersion":"sandboxd.dev/v1","kind":"Sandbox","metadata":{"name":"one"},"spec":{"image":"tiny","image":"other"}}`)
		k.fails(1, "create", "--raw", "/apis/sandboxd.dev/v1/namespaces/"+k.ns+"/sandboxes?fieldValidation=Strict", "-f", file).says(`duplicate field "spec.image"`)
	}},
	{"create namespace", 0, func(k *kubectl) {
		k.ok("create", "namespace", k.ns+"-b").is("namespace/" + k.ns + "-b created")
		k.ok("get", "ns", k.ns+"-b", "-o", "jsonpath={.status.phase} {.spec.finalizers[0]}").is("Active kubernetes")
		k.fails(1, "create", "namespace", k.ns+"-b").says(`^Error from server \(AlreadyExists\): namespaces "` + k.ns + `-b" already exists$`)
		k.ok("delete", "ns", k.ns+"-b")
	}},
	{"create namespace --dry-run=client -o yaml", 0, func(k *kubectl) {
		k.ok("create", "ns", "x", "--dry-run=client", "-o", "yaml").has(`^kind: Namespace$`)
		k.ok("create", "ns", k.ns+"-x", "--dry-run=server").has(`created \(server dry run\)`)
		k.gone("ns/" + k.ns + "-x")
	}},
	{"create secret generic", 0, func(k *kubectl) {
		file := k.file("token", "from a file")
		k.ok("create", "secret", "generic", "keys", "--from-literal=user=me", "--from-file="+file, "--from-file=other="+file).is("secret/keys created")
		k.ok("get", "secret", "keys", "-o", `go-template={{.type}} {{.data.user|base64decode}} {{.data.token|base64decode}} {{.data.other|base64decode}}`).
			is("Opaque me from a file from a file")
	}},
	{"create secret generic from an env file, of a type", 0, func(k *kubectl) {
		k.ok("create", "secret", "generic", "env", "--type=example.org/kind", "--from-env-file="+k.file("e", "A=1\nB=2\n"))
		k.ok("get", "secret", "env").has(`^env +example.org/kind +2 `)
	}},
	{"create secret tls", 0, func(k *kubectl) {
		certificate, key := keyPair(k.t)
		k.ok("create", "secret", "tls", "web", "--cert="+k.file("c.pem", certificate), "--key="+k.file("k.pem", key))
		k.ok("get", "secret", "web").has(`^web +kubernetes.io/tls +2 `)
	}},
	{"create secret docker-registry", 0, func(k *kubectl) {
		k.ok("create", "secret", "docker-registry", "reg", "--docker-server=registry.example.org", "--docker-username=me", "--docker-password=pw")
		k.ok("get", "secret", "reg").has(`^reg +kubernetes.io/dockerconfigjson +1 `)
	}},
	{"a secret of a type without what the type needs is refused", 0, func(k *kubectl) {
		r := k.run("apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\ntype: kubernetes.io/tls\n", "create", "-f", "-").ended(1)
		r.says(`The Secret "bad" is invalid`, `data\[tls.crt\]: Required value`)
	}},
	{"an immutable secret stays as it is", 0, func(k *kubectl) {
		k.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: fixed}\nimmutable: true\nstringData: {a: b}\n")
		k.fails(1, "patch", "secret", "fixed", "-p", `{"stringData":{"a":"c"}}`).says(`is invalid`, `(?i)immutable`)
		k.ok("delete", "secret", "fixed")
	}},
	{"create in a namespace that is not there", 0, func(k *kubectl) {
		k.run(stopped("one"), "create", "-f", "-", "-n", "nowhere").ended(1).says(`\(NotFound\).*namespaces "nowhere" not found`)
	}},
	{"create in another namespace than the manifest's", 0, func(k *kubectl) {
		k.run(sandbox("one", ", namespace: elsewhere", "powerState: Stopped"), "create", "-f", "-", "-n", k.ns).ended(1).
			says(`the namespace from the provided object "elsewhere" does not match the namespace "` + k.ns + `"`)
	}},
}

// keyPair is a certificate and its key, as PEM.
func keyPair(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}
