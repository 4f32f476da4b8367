package kubectl_test

var describeChecks = []check{
	{"a sandbox, with its events", 0, func(k *kubectl) {
		k.apply(running("one"))
		k.ready("one")
		k.eventually("it has events", func() bool {
			return k.run("", "describe", "sbx", "one").code == 0 && len(k.ok("get", "events", "-o", "name").out) > 0
		})
		k.ok("describe", "sbx", "one").has(`^Name: +one$`, `^Namespace: +`+k.ns+`$`, `^Kind: +Sandbox$`, `^Spec:$`, `^  Power State: +Running$`, `^Events:$`, `^  Type +Reason +Age +From +Message$`, `^  Normal +\w+ +`)
	}},
	{"a golden image", 0, func(k *kubectl) {
		k.ok("describe", "gi", "tiny").has(`^Name: +tiny$`, `^Kind: +GoldenImage$`, `^ +Digest: +`)
	}},
	{"a snapshot", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.apply("apiVersion: sandboxd.dev/v1\nkind: SandboxSnapshot\nmetadata: {name: shot}\nspec: {sandbox: one}\n")
		k.ok("wait", "snap/shot", "--for=condition=Ready", "--timeout=2m")
		k.ok("describe", "snap", "shot").has(`^Kind: +SandboxSnapshot$`, `^  Sandbox: +one$`)
	}},
	{"a namespace", 0, func(k *kubectl) {
		k.ok("describe", "ns", k.ns).has(`^Name: +`+k.ns+`$`, `^Status: +Active$`)
	}},
	{"a secret, without its values", 0, func(k *kubectl) {
		k.apply(secret("keys", "password", "canary-value"))
		k.ok("describe", "secret", "keys").has(`^Type: +Opaque$`, `^password: +12 bytes$`).lacks(`canary`)
	}},
	{"a lease", 0, func(k *kubectl) {
		k.apply("apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: l}\nspec: {holderIdentity: me, leaseDurationSeconds: 15}\n")
		k.ok("describe", "lease", "l").has(`^Name: +l$`, `Holder Identity: +me$`)
		k.ok("get", "leases").has(`^NAME +HOLDER +AGE$`, `^l +me +`)
	}},
	{"a customresourcedefinition", 0, func(k *kubectl) {
		k.ok("describe", "crd", "sandboxes.sandboxd.dev").has(`^Name: +sandboxes.sandboxd.dev$`, `^ +Plural: +sandboxes$`)
	}},
	{"an event", 0, func(k *kubectl) {
		k.apply(running("one"))
		k.ready("one")
		k.eventually("it has events", func() bool { return len(k.ok("get", "events", "-o", "name").out) > 0 })
		k.ok("describe", k.ok("get", "events", "-o", "name").lines()[0]).has(`(?i)^Involved ?Object:`, `(?i)^Reason: +\w+`)
	}},
	{"by label, by prefix and by file", 0, func(k *kubectl) {
		k.apply(labelled("one", "{a: b}") + stopped("two"))
		k.ok("describe", "sbx", "-l", "a=b").has(`^Name: +one$`).lacks(`^Name: +two$`)
		k.ok("describe", "sbx", "tw").has(`^Name: +two$`)
		k.ok("describe", "-f", k.file("one.yaml", stopped("one"))).has(`^Name: +one$`)
		k.fails(1, "describe", "sbx", "nope").says(`NotFound`)
	}},
	{"get events in both groups", 0, func(k *kubectl) {
		k.apply(running("one"))
		k.ready("one")
		k.eventually("it has events", func() bool { return len(k.ok("get", "events", "-o", "name").out) > 0 })
		k.ok("get", "events").has(`^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE$`, ` sandbox/one `)
		k.ok("get", "events.events.k8s.io").has(` sandbox/one `)
		k.ok("get", "ev", "--field-selector=involvedObject.name=one,involvedObject.kind=Sandbox,type=Normal", "-o", "wide").has(`SUBOBJECT|COUNT`, ` sandbox/one `)
		k.ok("get", "ev", "--field-selector=involvedObject.name=other").is("")
		k.ok("get", "ev", "--sort-by=.lastTimestamp").has(`sandbox/one`)
	}},
	{"events --for, --types and -w", 26, func(k *kubectl) {
		k.apply(running("one") + running("two"))
		k.ready("one")
		k.ready("two")
		k.eventually("both have events", func() bool {
			return len(k.ok("events", "--for", "sandbox.v1.sandboxd.dev/one", "--no-headers").out) > 0 && len(k.ok("events", "--for=sandbox/two", "--no-headers").out) > 0
		})
		k.ok("events", "--for", "sbx/one").has(`^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE`, ` Sandbox/one `).lacks(`/two`)
		k.ok("events", "--types=Warning").lacks(` Normal `)
		w := k.start("events", "-w")
		w.shows(`Sandbox/one`)
		k.apply(running("three"))
		w.shows(`Sandbox/three`)
		w.interrupt()
	}},
}
