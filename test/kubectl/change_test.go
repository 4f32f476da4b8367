package kubectl_test

import "strings"

var changeChecks = []check{
	{"edit", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.editor(`sed -i 's/powerState: Stopped/powerState: Suspended/' "$1"`)
		k.ok("edit", "sbx", "one").has(`^sandbox.sandboxd.dev/one edited$`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.powerState}").is("Suspended")
	}},
	{"edit that changes nothing", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.editor(`true`)
		r := k.ok("edit", "sbx", "one")
		if !strings.Contains(r.out+r.err, "cancelled, no changes made") {
			k.t.Errorf("%s", r)
		}
	}},
	{"edit of what is refused is offered again, with the reason", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		// The second time, the editor leaves the file as it is, which gives up.
		k.editor(`grep -q 'powerState: Sideways' "$1" && { cp "$1" reopened; exit 0; }; sed -i 's/^  powerState: Stopped/  powerState: Sideways/' "$1"`)
		k.fails(1, "edit", "sbx", "one")
		k.shell("", "cat", "reopened").ended(0).has(`^# sandboxes.sandboxd.dev "one" was not valid:`, `^# .*spec.powerState: Unsupported value: "Sideways"`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.powerState}").is("Stopped")
	}},
	{"edit -o json of a core kind", 0, func(k *kubectl) {
		k.apply(secret("keys", "a", "b"))
		k.editor(`sed -i 's/"Yg=="/"Yw=="/' "$1"`)
		k.ok("edit", "secret", "keys", "-o", "json").has(`"kind": "Secret"`)
		k.ok("get", "secret", "keys", "-o", "jsonpath={.data.a}").is("Yw==")
	}},
	{"edit --subresource=status", 24, func(k *kubectl) {
		k.apply(stopped("one"))
		k.eventually("it has stopped", func() bool { return k.get("sbx/one", ".status.phase") == "Stopped" })
		k.editor(`sed -i 's/^  restarts: .*//; s/^status:/status:\n  restarts: 41/' "$1"`)
		k.ok("edit", "sbx", "one", "--subresource=status").has(`edited`)
	}},
	{"patch --type=merge", 0, func(k *kubectl) {
		k.apply(sandbox("one", "", "powerState: Stopped\n  cpus: 2"))
		k.ok("patch", "sbx", "one", "--type=merge", "-p", `{"spec":{"cpus":3,"memory":"1Gi"}}`).is("sandbox.sandboxd.dev/one patched")
		k.settled("one") // kubectl calls it a change, too, if the status is another one afterwards
		k.ok("patch", "sbx", "one", "--type=merge", "-p", `{"spec":{"cpus":3}}`).is("sandbox.sandboxd.dev/one patched (no change)")
		k.ok("patch", "sbx", "one", "--type=merge", "-p", `spec: {memory: null}`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.cpus}:{.spec.memory}").is("3:")
	}},
	{"patch --type=json", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("patch", "sbx", "one", "--type=json", "-p", `[{"op":"test","path":"/spec/powerState","value":"Stopped"},{"op":"add","path":"/spec/cpus","value":4}]`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.cpus}").is("4")
		k.fails(1, "patch", "sbx", "one", "--type=json", "-p", `[{"op":"test","path":"/spec/cpus","value":5}]`).says(`(?i)testing.*(/spec/cpus|failed)|^The request is invalid$`)
		k.fails(1, "patch", "sbx", "one", "--type=json", "-p", `[{"op":"remove","path":"/spec/nothing"}]`).says(`(?i)invalid|unable to remove|nonexistent|not exist`)
	}},
	{"patch --type=strategic is refused for custom kinds", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.fails(1, "patch", "sbx", "one", "-p", `{"spec":{"cpus":2}}`).says(`UnsupportedMediaType|unsupported media type|strategic merge patch format is not supported|application/strategic-merge-patch\+json`)
	}},
	{"patch of a core kind is strategic", 0, func(k *kubectl) {
		k.apply(secret("keys", "a", "b"))
		k.ok("patch", "secret", "keys", "-p", `{"stringData":{"c":"d"}}`).is("secret/keys patched")
		k.ok("get", "secret", "keys", "-o", "jsonpath={.data.a}{.data.c}").is("Yg==ZA==")
		k.ok("patch", "ns", k.ns, "-p", `{"metadata":{"labels":{"a":"b"}}}`)
		k.ok("patch", "ns", k.ns, "-p", `{"metadata":{"labels":{"$patch":"replace","c":"d"}}}`)
		k.ok("get", "ns", k.ns, "-o", "jsonpath={.metadata.labels.a}{.metadata.labels.c}").is("d")
	}},
	{"patch --subresource=status", 24, func(k *kubectl) {
		k.apply(stopped("one"))
		k.eventually("it has stopped", func() bool { return k.get("sbx/one", ".status.phase") == "Stopped" })
		k.ok("patch", "sbx", "one", "--subresource=status", "--type=merge", "-p", `{"spec":{"cpus":9},"status":{"restarts":41}}`).has(`one patched`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.cpus}").is("")
	}},
	{"patch without the subresource leaves the status alone", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("patch", "sbx", "one", "--type=merge", "-p", `{"status":{"restarts":41}}`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.status.restarts}").lacks(`41`)
	}},
	{"patch --patch-file and -f", 21, func(k *kubectl) {
		file := k.file("one.yaml", stopped("one"))
		k.ok("apply", "-f", file)
		k.ok("patch", "-f", file, "--type=merge", "--patch-file="+k.file("p.yaml", "spec: {cpus: 5}"))
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.cpus}").is("5")
	}},
	{"patch --dry-run=server", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("patch", "sbx", "one", "--type=merge", "-p", `{"spec":{"cpus":5}}`, "--dry-run=server", "-o", "jsonpath={.spec.cpus}").is("5")
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.cpus}").is("")
	}},
	{"replace", 0, func(k *kubectl) {
		k.apply(sandbox("one", ", labels: {a: b}", "powerState: Stopped\n  cpus: 2"))
		k.settled("one") // kubectl reads it for its version, and then writes
		k.pipe(stopped("one"), "replace", "-f", "-").is("sandbox.sandboxd.dev/one replaced")
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.cpus}{.metadata.labels}").is("")
		k.run(stopped("nope"), "replace", "-f", "-").ended(1).says(`\(NotFound\)`)
	}},
	{"replace with an old resourceVersion is a conflict", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		old := k.ok("get", "sbx", "one", "-o", "json").out
		k.ok("label", "sbx", "one", "a=b")
		k.run(old, "replace", "-f", "-").ended(1).says(`\(Conflict\).*the object has been modified; please apply your changes to the latest version and try again`)
	}},
	{"replace --force deletes and makes it anew", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		before := k.get("sbx/one", ".metadata.uid")
		k.pipe(stopped("one"), "replace", "--force", "-f", "-").has(`"one" (force )?deleted`, `one replaced`)
		if k.get("sbx/one", ".metadata.uid") == before {
			k.t.Error("it is the old one")
		}
	}},
	{"replace --raw", 0, func(k *kubectl) {
		k.apply(secret("keys", "a", "b"))
		file := k.file("s.json", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"keys"},"stringData":{"x":"y"}}`)
		k.ok("replace", "--raw", "/api/v1/namespaces/"+k.ns+"/secrets/keys", "-f", file)
		k.ok("get", "secret", "keys", "-o", "jsonpath={.data}").is(`{"x":"eQ=="}`)
	}},
	{"label sets, refuses to overwrite, overwrites and removes", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("label", "sbx", "one", "a=b").is("sandbox.sandboxd.dev/one labeled")
		k.fails(1, "label", "sbx", "one", "a=c").says(`'a' already has a value \(b\), and --overwrite is false`)
		k.ok("label", "sbx", "one", "a=c", "--overwrite")
		k.ok("get", "sbx", "one", "-o", "jsonpath={.metadata.labels.a}").is("c")
		k.ok("label", "sbx", "one", "a-")
		k.ok("get", "sbx", "one", "-o", "jsonpath={.metadata.labels}").is("")
	}},
	{"label --all, -l and --list", 0, func(k *kubectl) {
		k.apply(labelled("one", "{x: why}") + stopped("two"))
		k.ok("label", "sbx", "--all", "all=true").has(`one labeled`, `two labeled`)
		k.ok("label", "sbx", "-l", "x=why", "some=true").has(`one labeled`).lacks(`two`)
		k.ok("label", "sbx", "one", "--list").has(`^all=true$`, `^some=true$`)
	}},
	{"label --resource-version", 0, func(k *kubectl) {
		k.apply(secret("keys", "a", "b"))
		version := k.get("secret/keys", ".metadata.resourceVersion")
		k.ok("label", "secret", "keys", "a=b", "--resource-version="+version)
		k.fails(1, "label", "secret", "keys", "c=d", "--resource-version="+version).says(`\(Conflict\)`)
	}},
	{"label --dry-run=server and --local", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("label", "sbx", "one", "a=b", "--dry-run=server").has(`one labeled`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.metadata.labels}").is("")
		k.ok("label", "--local", "-f", k.file("one.yaml", stopped("one")), "a=b", "-o", "jsonpath={.metadata.labels.a}").is("b")
	}},
	{"label refuses what is no label", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.fails(1, "label", "sbx", "one", "a=not a label").says(`(?i)invalid label value|is invalid|a valid label must be`)
	}},
	{"annotate sets, overwrites and removes", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("annotate", "sbx", "one", "note=any text at all").is("sandbox.sandboxd.dev/one annotated")
		k.fails(1, "annotate", "sbx", "one", "note=other").says(`--overwrite is false`)
		k.ok("annotate", "sbx", "one", "note=other", "--overwrite")
		k.ok("get", "sbx", "one", "-o", "jsonpath={.metadata.annotations.note}").is("other")
		k.ok("annotate", "sbx", "one", "note-")
		k.ok("get", "sbx", "one", "-o", "jsonpath={.metadata.annotations.note}").is("")
	}},
	{"annotate a namespace", 0, func(k *kubectl) {
		k.ok("annotate", "ns", k.ns, "by=me").has(`annotated`)
		k.ok("get", "ns", k.ns, "-o", "jsonpath={.metadata.annotations.by}").is("me")
	}},
	{"the generation grows with the spec only", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("label", "sbx", "one", "a=b")
		k.ok("get", "sbx", "one", "-o", "jsonpath={.metadata.generation}").is("1")
		k.ok("patch", "sbx", "one", "--type=merge", "-p", `{"spec":{"cpus":2}}`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.metadata.generation}").is("2")
	}},
}
