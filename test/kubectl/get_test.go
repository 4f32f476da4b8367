package kubectl_test

import (
	"strings"
)

var getChecks = []check{
	{"an empty list says so", 0, func(k *kubectl) {
		k.ok("get", "sbx").is("").says(`^No resources found in ` + k.ns + ` namespace\.$`)
	}},
	{"a table has the columns of the kind", 0, func(k *kubectl) {
		k.apply(running("one"))
		k.ready("one")
		k.ok("get", "sbx").has(`^NAME +IMAGE +PHASE +READY +NETWORK +ADDRESS +AGE$`, `^one +tiny +Running +True +none .* [0-9ms]+$`).quiet()
	}},
	{"-o wide has more columns", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sbx", "-o", "wide").has(`^NAME .* ISOLATED +RESTARTS +PROVIDER +SINCE +MESSAGE +AGE$`)
	}},
	{"-o yaml", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sbx", "one", "-o", "yaml").has(`^apiVersion: sandboxd.dev/v1\nkind: Sandbox$`, `^  resourceVersion: "\d+"$`, `^  powerState: Stopped$`)
	}},
	{"-o json of a list", 0, func(k *kubectl) {
		k.apply(stopped("one") + stopped("two"))
		k.ok("get", "sbx", "-o", "json").has(`^    "kind": "List"`, `"name": "one"`, `"name": "two"`, `"uid": "[0-9a-f-]{36}"`)
	}},
	{"-o name", 0, func(k *kubectl) {
		k.apply(stopped("one") + stopped("two"))
		k.ok("get", "sandboxes", "-o", "name").is("sandbox.sandboxd.dev/one\nsandbox.sandboxd.dev/two")
	}},
	{"-o jsonpath", 0, func(k *kubectl) {
		k.apply(stopped("one") + stopped("two"))
		k.ok("get", "sbx", "-o", `jsonpath={range .items[*]}{.metadata.name}={.spec.powerState};{end}`).is("one=Stopped;two=Stopped;")
		k.ok("get", "sbx", "-o", `jsonpath={.items[?(@.metadata.name=="two")].metadata.name}`).is("two")
	}},
	{"-o jsonpath-as-json and jsonpath-file", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sbx", "one", "-o", "jsonpath-as-json={.spec.image}").is("[\n    \"tiny\"\n]")
		k.ok("get", "sbx", "one", "-o", "jsonpath-file="+k.file("path", "{.spec.image}")).is("tiny")
	}},
	{"-o custom-columns", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sbx", "-o", "custom-columns=N:.metadata.name,NONE:.spec.nothing,P:.spec.powerState").has(`^N +NONE +P$`, `^one +<none> +Stopped$`)
	}},
	{"-o custom-columns-file", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sbx", "-o", "custom-columns-file="+k.file("columns", "NAME IMAGE\n.metadata.name .spec.image\n")).has(`^one +tiny$`)
	}},
	{"-o go-template", 0, func(k *kubectl) {
		k.apply(stopped("one") + stopped("two"))
		k.ok("get", "sbx", "-o", "go-template={{range .items}}{{.metadata.name}}{{\"\\n\"}}{{end}}").is("one\ntwo")
	}},
	{"--sort-by", 0, func(k *kubectl) {
		k.apply(labelled("a", "{o: '3'}") + labelled("b", "{o: '1'}") + labelled("c", "{o: '2'}"))
		got := strings.Join(k.ok("get", "sbx", "--sort-by=.metadata.labels.o", "-o", "name").lines(), " ")
		if got != "sandbox.sandboxd.dev/b sandbox.sandboxd.dev/c sandbox.sandboxd.dev/a" {
			k.t.Errorf("sorted as %s", got)
		}
		lines := k.ok("get", "sbx", "--sort-by={.metadata.labels.o}", "--no-headers").lines()
		if len(lines) != 3 || !strings.HasPrefix(lines[0], "b ") || !strings.HasPrefix(lines[2], "a ") {
			k.t.Errorf("the table is sorted as %q", lines)
		}
	}},
	{"-L and --show-labels", 0, func(k *kubectl) {
		k.apply(labelled("one", "{tier: front}") + stopped("two"))
		k.ok("get", "sbx", "-L", "tier").has(`^NAME .* TIER$`, `^one .* front$`)
		k.ok("get", "sbx", "--show-labels").has(` LABELS$`, `^one .* tier=front$`, `^two .* <none>$`)
	}},
	{"--no-headers", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sbx", "--no-headers").lacks(`NAME`).has(`^one `)
	}},
	{"--show-kind", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sbx", "--show-kind").has(`^sandbox.sandboxd.dev/one `)
	}},
	{"--server-print=false", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sbx", "--server-print=false").has(`^NAME +AGE$`, `^one +`)
	}},
	{"--show-managed-fields", 21, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sbx", "one", "-o", "yaml").lacks(`managedFields`)
		k.ok("get", "sbx", "one", "-o", "yaml", "--show-managed-fields").has(`^  managedFields:`, `manager: kubectl-client-side-apply`, `f:powerState: \{\}`)
	}},
	{"-A shows namespaces", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sbx", "-A").has(`^NAMESPACE +NAME `, `^`+k.ns+` +one `)
		k.ok("get", "sbx", "--all-namespaces", "-o", "jsonpath={.items[*].metadata.namespace}").has(k.ns)
	}},
	{"-l by equality and by sets", 0, func(k *kubectl) {
		k.apply(labelled("one", "{tier: front, app: x}") + labelled("two", "{tier: back, app: x}") + stopped("three"))
		for selector, want := range map[string]string{
			"tier=front": "one", "tier!=front": "three two", "app=x,tier==back": "two", "tier in (front, back)": "one two",
			"tier notin (front)": "three two", "app": "one two", "!app": "three",
		} {
			got := strings.ReplaceAll(strings.Join(k.ok("get", "sbx", "-l", selector, "-o", "name").lines(), " "), "sandbox.sandboxd.dev/", "")
			if got != want {
				k.t.Errorf("-l %q finds %q, want %q", selector, got, want)
			}
		}
	}},
	{"--field-selector", 0, func(k *kubectl) {
		k.apply(stopped("one") + running("two"))
		k.ok("get", "sbx", "--field-selector=metadata.name=two", "-o", "name").is("sandbox.sandboxd.dev/two")
		k.ok("get", "sbx", "--field-selector=metadata.name!=two", "-o", "name").is("sandbox.sandboxd.dev/one")
		k.ok("get", "ns", "--field-selector=metadata.name="+k.ns+",status.phase=Active", "-o", "name").is("namespace/" + k.ns)
		k.fails(1, "get", "sbx", "--field-selector=spec.nothing=x").says(`\(BadRequest\).*field label not supported|BadRequest.*spec.nothing`)
	}},
	{"--field-selector on what a kind offers", 0, func(k *kubectl) {
		k.apply(stopped("one") + strings.Replace(stopped("two"), "image: tiny", "image: other", 1))
		k.ok("get", "sbx", "--field-selector=spec.image=other", "-o", "name").is("sandbox.sandboxd.dev/two")
		k.ok("get", "sbx", "--field-selector=spec.image!=other,metadata.namespace="+k.ns, "-o", "name").is("sandbox.sandboxd.dev/one")
	}},
	{"--chunk-size", 0, func(k *kubectl) {
		k.apply(stopped("one") + stopped("two") + stopped("three"))
		asked := k.ok("get", "sbx", "--chunk-size=2", "-o", "name", "-v=6")
		if lines := asked.lines(); len(lines) != 3 {
			k.t.Errorf("got %q", lines)
		}
		// Two requests, the second of which goes on with the first.
		if n := strings.Count(asked.err, "limit=2"); n != 2 || strings.Count(asked.err, "continue=") != 1 {
			k.t.Errorf("%d requests were made, as kubectl says:\n%s", n, asked.err)
		}
		if lines := k.ok("get", "sbx", "--chunk-size=1", "--no-headers").lines(); len(lines) != 3 {
			k.t.Errorf("the table is %q", lines)
		}
		k.ok("get", "sbx", "--chunk-size=2").has(`^NAME `, `^one `, `^two `, `^three `)
	}},
	{"several names, and one that is not there", 0, func(k *kubectl) {
		k.apply(stopped("one") + stopped("two"))
		k.ok("get", "sbx", "one", "two", "-o", "name").is("sandbox.sandboxd.dev/one\nsandbox.sandboxd.dev/two")
		k.fails(1, "get", "sbx", "one", "nope", "-o", "name").has(`sandbox.sandboxd.dev/one`).says(`^Error from server \(NotFound\): sandboxes.sandboxd.dev "nope" not found$`)
	}},
	{"several kinds", 0, func(k *kubectl) {
		k.apply(stopped("one") + secret("keys", "a", "b"))
		k.ok("get", "sbx,secrets").has(`^sandbox.sandboxd.dev/one `, `^secret/keys +Opaque +1 `)
		k.ok("get", "sbx/one", "gi/tiny", "-o", "name").is("sandbox.sandboxd.dev/one\ngoldenimage.sandboxd.dev/tiny")
	}},
	{"get all", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "all", "-o", "name").has(`^sandbox.sandboxd.dev/one$`)
	}},
	{"a kind by category, long, short and full name", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		for _, name := range []string{"sbx", "sandbox", "sandboxes", "sandboxes.sandboxd.dev", "sandboxes.v1.sandboxd.dev", "Sandbox", "sandboxd"} {
			k.ok("get", name, "-o", "name").has(`^sandbox.sandboxd.dev/one$`)
		}
	}},
	{"by file", 0, func(k *kubectl) {
		file := k.file("all.yaml", stopped("one")+secret("keys", "a", "b"))
		k.fails(1, "get", "-f", file).says(`NotFound`)
		k.ok("apply", "-f", file)
		k.ok("get", "-f", file, "-o", "name").is("sandbox.sandboxd.dev/one\nsecret/keys")
	}},
	{"--ignore-not-found", 0, func(k *kubectl) {
		k.ok("get", "sbx", "nope", "--ignore-not-found").is("").quiet()
	}},
	{"secrets hide their values in a table", 0, func(k *kubectl) {
		k.apply(secret("keys", "password", "canary-value"))
		k.ok("get", "secrets").has(`^NAME +TYPE +DATA +AGE$`, `^keys +Opaque +1 +`).lacks(`canary`)
		k.ok("get", "secret", "keys", "-o", "jsonpath={.data.password}").is("Y2FuYXJ5LXZhbHVl")
	}},
	{"namespaces have their columns", 0, func(k *kubectl) {
		k.ok("get", "ns", k.ns).has(`^NAME +STATUS +AGE$`, `^`+k.ns+` +Active +`)
	}},
	{"get --raw of an object", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "--raw", "/apis/sandboxd.dev/v1/namespaces/"+k.ns+"/sandboxes/one").has(`"kind":"Sandbox"`)
	}},
	{"the status subresource", 24, func(k *kubectl) {
		k.apply(running("one"))
		k.ready("one")
		k.ok("get", "sbx", "one", "--subresource=status", "-o", "jsonpath={.status.phase}").is("Running")
	}},
}

var watchChecks = []check{
	{"-w shows what there is and what comes", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		w := k.start("get", "sbx", "-w")
		w.shows(`^one `)
		k.apply(running("two"))
		w.shows(`^two .* True `)
		r := w.interrupt()
		if n := strings.Count(r.out, "NAME"); n != 1 {
			k.t.Errorf("%d headers:\n%s", n, r.out)
		}
	}},
	{"--watch-only leaves out what there is", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.eventually("one has stopped", func() bool { return k.get("sbx/one", ".status.phase") == "Stopped" })
		w := k.start("get", "sbx", "--watch-only", "-o", "name")
		// There is no telling when it has begun to watch but that it sees something.
		k.eventually("it sees a label", func() bool {
			k.ok("label", "ns", k.ns, "x=y", "--overwrite")
			k.apply(labelled("two", "{n: '1'}"))
			k.ok("delete", "sbx", "two")
			return strings.Contains(w.out.String(), "/two")
		})
		w.interrupt().lacks(`/one`)
	}},
	{"--output-watch-events names what happened", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		w := k.start("get", "sbx", "-w", "--output-watch-events")
		w.shows(`^EVENT +NAME`)
		w.shows(`^ADDED +one `)
		k.ok("label", "sbx", "one", "a=b")
		w.shows(`^MODIFIED +one `)
		k.ok("delete", "sbx", "one")
		w.shows(`^DELETED +one `)
		w.interrupt()
	}},
	{"-w of one object", 0, func(k *kubectl) {
		k.apply(stopped("one") + stopped("two"))
		w := k.start("get", "sbx", "one", "-w", "-o", `jsonpath={.metadata.name}{.metadata.labels.a}{"\n"}`)
		w.shows(`^one$`)
		k.ok("label", "sbx", "two", "a=b")
		k.ok("label", "sbx", "one", "a=c")
		w.shows(`^onec$`)
		w.interrupt().lacks(`two`)
	}},
	{"-w of a selection: what no longer fits is deleted", 0, func(k *kubectl) {
		k.apply(labelled("one", "{a: b}"))
		w := k.start("get", "sbx", "-w", "-l", "a=b", "--output-watch-events")
		w.shows(`^ADDED +one `)
		k.ok("label", "sbx", "one", "a=other", "--overwrite")
		w.shows(`^DELETED +one `)
		w.interrupt()
	}},
	{"-w -o yaml", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		w := k.start("get", "sbx", "-w", "-o", "yaml")
		w.shows(`^  name: one$`)
		k.apply(stopped("two"))
		w.shows(`^  name: two$`)
		w.interrupt()
	}},
	{"-w -A", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		w := k.start("get", "sbx", "-w", "-A")
		w.shows(`^` + k.ns + ` +one `)
		w.interrupt()
	}},
}
