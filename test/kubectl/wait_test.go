package kubectl_test

var waitChecks = []check{
	{"--for=condition", 0, func(k *kubectl) {
		k.apply(running("one"))
		k.ok("wait", "sbx/one", "--for=condition=Ready", "--timeout=2m").is("sandbox.sandboxd.dev/one condition met").quiet()
		k.ok("wait", "sbx/one", "--for=condition=ready=true", "--timeout=2m")
	}},
	{"--for=condition=...=False", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("wait", "sbx/one", "--for=condition=Ready=False", "--timeout=2m").has(`condition met`)
	}},
	{"--for=condition that is never met ends with the timeout", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.timesOut(`^error: timed out waiting for the condition on sandboxes/one$`, "wait", "sbx/one", "--for=condition=Ready")
	}},
	{"--for=condition of what changes meanwhile", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		p := k.start("wait", "sbx/one", "--for=condition=Ready", "--timeout=2m")
		k.ok("patch", "sbx", "one", "--type=merge", "-p", `{"spec":{"powerState":"Running"}}`)
		p.wait().ended(0).has(`condition met`)
	}},
	{"--for=condition of all, and by label", 0, func(k *kubectl) {
		k.apply(running("one") + labelled("two", "{a: b}"))
		k.ok("patch", "sbx", "two", "--type=merge", "-p", `{"spec":{"powerState":"Running"}}`)
		k.ok("wait", "sbx", "--all", "--for=condition=Ready", "--timeout=2m").has(`one condition met`, `two condition met`)
		k.ok("wait", "sbx", "-l", "a=b", "--for=condition=Ready", "--timeout=2m").lacks(`one`)
	}},
	{"--for=delete", 0, func(k *kubectl) {
		k.apply(held("one"))
		p := k.start("wait", "secret/one", "--for=delete", "--timeout=2m", "-v=6")
		p.asks("/secrets/one") // or, an old one would say that there is none
		k.ok("delete", "secret", "one", "--wait=false")
		k.release("secret/one")
		p.wait().ended(0).is("secret/one condition met")
	}},
	{"--for=delete of what is gone", 23, func(k *kubectl) {
		k.ok("wait", "sbx/nope", "--for=delete", "--timeout=10s")
	}},
	{"--for=jsonpath", 23, func(k *kubectl) {
		k.apply(running("one"))
		k.ok("wait", "sbx/one", "--for=jsonpath={.status.phase}=Running", "--timeout=2m").has(`condition met`)
		k.timesOut(`timed out`, "wait", "sbx/one", "--for=jsonpath={.status.phase}=Stopped")
	}},
	{"--for=jsonpath without a value", 31, func(k *kubectl) {
		k.apply(running("one"))
		k.ok("wait", "sbx/one", "--for=jsonpath={.status.machineID}", "--timeout=2m").has(`condition met`)
	}},
	{"--for=create", 31, func(k *kubectl) {
		p := k.start("wait", "sbx/late", "--for=create", "--timeout=2m")
		k.apply(stopped("late"))
		p.wait().ended(0).has(`late condition met`)
	}},
	{"-f", 0, func(k *kubectl) {
		file := k.file("all.yaml", running("one")+running("two"))
		k.ok("apply", "-f", file)
		k.ok("wait", "-f", file, "--for=condition=Ready", "--timeout=2m").has(`one condition met`, `two condition met`)
	}},
	{"of what is not there", 0, func(k *kubectl) {
		k.timesOut(`\(NotFound\).*"nope" not found`, "wait", "sbx/nope", "--for=condition=Ready")
	}},
}
