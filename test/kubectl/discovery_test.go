package kubectl_test

import "strings"

var discoveryChecks = []check{
	{"version tells the server's", 0, func(k *kubectl) {
		k.ok("version", "-o", "json").has(`"serverVersion": \{`, `"clientVersion": \{`, `"platform": "`)
	}},
	{"version of the server is one that kubectl can compare", 28, func(k *kubectl) {
		k.ok("version").has(`^Server Version: v\d+\.\d+`)
	}},
	{"cluster-info names the control plane", 0, func(k *kubectl) {
		k.ok("cluster-info").has(`(?i)control plane.* is running at .*http`)
	}},
	{"api-resources lists every kind with its columns", 0, func(k *kubectl) {
		k.ok("api-resources").has(
			`^NAME +SHORTNAMES +API(VERSION|GROUP) +NAMESPACED +KIND`,
			`^sandboxes +sbx +sandboxd.dev/v1 +true +Sandbox$`, `^goldenimages +gi +sandboxd.dev/v1 +false +GoldenImage$`,
			`^sandboxsnapshots +snap +sandboxd.dev/v1 +true +SandboxSnapshot$`,
			`^namespaces +ns +v1 +false +Namespace$`, `^secrets +v1 +true +Secret$`, `^events +ev +v1 +true +Event$`,
			`^events +ev +events.k8s.io/v1 +true +Event$`, `^leases +coordination.k8s.io/v1 +true +Lease$`,
			`^customresourcedefinitions +crds?,crds? +apiextensions.k8s.io/v1 +false +CustomResourceDefinition$`,
		).quiet()
	}},
	{"api-resources --api-group", 0, func(k *kubectl) {
		r := k.ok("api-resources", "--api-group=sandboxd.dev", "-o", "name")
		r.has(`^sandboxes.sandboxd.dev$`, `^goldenimages.sandboxd.dev$`).lacks(`secrets`)
	}},
	{"api-resources -o wide has verbs", 0, func(k *kubectl) {
		k.ok("api-resources", "-o", "wide", "--api-group=sandboxd.dev").has(
			`VERBS`, `^sandboxes .*create.*delete.*deletecollection.*get.*list.*patch.*update.*watch|^sandboxes .*\[create delete deletecollection get list patch update watch\]`)
	}},
	{"api-resources --verbs leaves out what has them not", 0, func(k *kubectl) {
		k.ok("api-resources", "--verbs=create,delete", "-o", "name").has(`^sandboxes`).lacks(`customresourcedefinitions`)
	}},
	{"api-resources --namespaced=false", 0, func(k *kubectl) {
		k.ok("api-resources", "--namespaced=false", "-o", "name").has(`^goldenimages`, `^namespaces$`).lacks(`^sandboxes`)
	}},
	{"api-resources --categories", 24, func(k *kubectl) {
		k.ok("api-resources", "--categories=sandboxd", "-o", "name").has(`^sandboxes`, `^goldenimages`).lacks(`secrets`)
	}},
	{"api-resources --sort-by=kind", 0, func(k *kubectl) {
		out := k.ok("api-resources", "--sort-by=kind", "--no-headers").out
		if strings.Index(out, "GoldenImage") > strings.Index(out, "SandboxSnapshot") {
			k.t.Errorf("not sorted:\n%s", out)
		}
	}},
	{"api-versions", 0, func(k *kubectl) {
		k.ok("api-versions").has(`^v1$`, `^sandboxd.dev/v1$`, `^events.k8s.io/v1$`, `^coordination.k8s.io/v1$`, `^apiextensions.k8s.io/v1$`, `^authorization.k8s.io/v1$`)
	}},
	{"explain tells what a kind is", 0, func(k *kubectl) {
		k.ok("explain", "sandbox").has(`^KIND: +Sandbox`, `^VERSION: +(sandboxd.dev/)?v1`, `Sandbox is one throw-away virtual machine`, `^ +spec\s+<Object>`)
	}},
	{"explain of a nested field", 0, func(k *kubectl) {
		k.ok("explain", "sbx.spec.network").has(`mode\s+<string>`, `portForwards\s+<\[\]Object>`)
	}},
	{"explain of a field of a list's items", 0, func(k *kubectl) {
		k.ok("explain", "sandboxes.spec.network.portForwards.guestPort").has(`^FIELD: +guestPort`, `<integer>`)
	}},
	{"explain shows what is required", 0, func(k *kubectl) {
		k.ok("explain", "sbx.spec").has(`image\s+<string> -required-`)
	}},
	{"explain of the metadata", 0, func(k *kubectl) {
		k.ok("explain", "sbx.metadata").has(`finalizers\s+<\[\]string>`, `ownerReferences\s+<\[\](Object|OwnerReference)>`)
	}},
	{"explain --recursive", 0, func(k *kubectl) {
		k.ok("explain", "goldenimage", "--recursive").has(`^ +sha256\s+<string>`, `^ +unattended\s+<Object>`, `^ +conditions\s+<\[\]Object>`)
	}},
	{"explain shows an enum", 28, func(k *kubectl) {
		k.ok("explain", "sbx.spec.powerState").has(`ENUM:|enum: `, `Running`, `Suspended`)
	}},
	{"explain by --api-version", 0, func(k *kubectl) {
		k.ok("explain", "events", "--api-version=events.k8s.io/v1").has(`regarding\s+<`)
	}},
	{"explain of a core kind", 0, func(k *kubectl) {
		k.ok("explain", "secret").has(`^KIND: +Secret`, `stringData\s+<map\[string\]string>`)
	}},
	{"explain refuses a field that is not there", 0, func(k *kubectl) {
		k.fails(1, "explain", "sbx.spec.nothing").says(`field "nothing" does not exist`)
	}},
	{"get customresourcedefinitions", 0, func(k *kubectl) {
		k.ok("get", "crd").has(`^NAME +CREATED AT`, `^sandboxes.sandboxd.dev +\d{4}-`)
		k.ok("get", "crd", "goldenimages.sandboxd.dev", "-o", "jsonpath={.spec.scope} {.status.acceptedNames.kind}").is("Cluster GoldenImage")
	}},
	{"wait for a customresourcedefinition to be established", 0, func(k *kubectl) {
		k.ok("wait", "crd/sandboxes.sandboxd.dev", "--for=condition=Established", "--timeout=10s").has(`condition met`)
	}},
	{"get --raw of discovery, health and metrics", 0, func(k *kubectl) {
		k.ok("get", "--raw", "/apis/sandboxd.dev/v1").has(`"APIResourceList"`)
		k.ok("get", "--raw", "/readyz").is("ok")
		k.ok("get", "--raw", "/openapi/v2").has(`"swagger":\s*"2.0"`)
		k.fails(1, "get", "--raw", "/nothing/there").says(`\(NotFound\)|could not find`)
	}},
	{"discovery is kept, and read again when a kind is unknown", 0, func(k *kubectl) {
		k.ok("get", "sbx")
		k.fails(1, "get", "unicorns").says(`the server doesn't have a resource type "unicorns"`)
		k.ok("get", "sandbox")
	}},
	{"completion of names asks the server", 0, func(k *kubectl) {
		if k.minor < 22 {
			k.ok("completion", "bash").has(`__kubectl_`)
			return
		}
		k.apply(stopped("one") + stopped("two"))
		k.ok("__complete", "get", "sandbox", "").has(`^one$`, `^two$`)
		k.ok("__complete", "get", "sand").has(`^sandboxes`, `^sandboxsnapshots`)
		k.ok("__complete", "get", "sandbox", "-n", "def").has(`^default$`)
	}},
}
