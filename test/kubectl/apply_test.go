package kubectl_test

import "strings"

var applyChecks = []check{
	{"apply creates, leaves alone, and changes", 0, func(k *kubectl) {
		file := k.file("one.yaml", stopped("one"))
		k.ok("apply", "-f", file).is("sandbox.sandboxd.dev/one created").quiet()
		k.ok("apply", "-f", file).is("sandbox.sandboxd.dev/one unchanged").quiet()
		k.file("one.yaml", labelled("one", "{a: b}"))
		k.ok("apply", "-f", file).is("sandbox.sandboxd.dev/one configured").quiet()
	}},
	{"apply removes what the manifest no longer says", 0, func(k *kubectl) {
		k.apply(sandbox("one", ", labels: {a: b, c: d}", "powerState: Stopped\n  cpus: 2"))
		k.ok("label", "sbx", "one", "mine=kept")
		k.apply(sandbox("one", ", labels: {a: b}", "powerState: Stopped"))
		k.ok("get", "sbx", "one", "-o", "jsonpath={.metadata.labels} {.spec.cpus}").is(`{"a":"b","mine":"kept"}`)
	}},
	{"apply of what create made warns", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "create", "-f", "-")
		k.pipe(stopped("one"), "apply", "-f", "-").has(`one configured`).says(`missing the kubectl.kubernetes.io/last-applied-configuration annotation|should be used on resource created by either kubectl create --save-config`)
	}},
	{"apply of core kinds merges strategically", 0, func(k *kubectl) {
		k.apply(secret("keys", "a", "b") + namespace(k.ns+"-n"))
		k.apply(secret("keys", "c", "d") + strings.Replace(namespace(k.ns+"-n"), "}", ", labels: {x: why}}", 1))
		k.ok("get", "ns", k.ns+"-n", "-L", "x").has(` why$`)
		k.ok("get", "secret", "keys", "-o", "jsonpath={.data.c}").is("ZA==")
		k.ok("delete", "ns", k.ns+"-n")
	}},
	{"apply --dry-run=client and =server change nothing", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "apply", "-f", "-", "--dry-run=client").has(`one created \(dry run\)`)
		k.pipe(stopped("one"), "apply", "-f", "-", "--dry-run=server").has(`one created \(server dry run\)`)
		k.gone("sbx/one")
		k.apply(stopped("one"))
		version := k.get("sbx/one", ".metadata.labels")
		k.pipe(labelled("one", "{a: b}"), "apply", "-f", "-", "--dry-run=server").has(`one configured \(server dry run\)`)
		if now := k.get("sbx/one", ".metadata.labels"); now != version {
			k.t.Errorf("it changed: %s", now)
		}
	}},
	{"apply --server-side", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "apply", "--server-side", "-f", "-").is("sandbox.sandboxd.dev/one serverside-applied").quiet()
		k.ok("get", "--raw", "/apis/sandboxd.dev/v1/namespaces/"+k.ns+"/sandboxes/one").has(`"manager":"kubectl","operation":"Apply"`)
	}},
	{"apply --server-side removes what the manifest no longer says", 0, func(k *kubectl) {
		k.pipe(sandbox("one", "", "powerState: Stopped\n  cpus: 2"), "apply", "--server-side", "-f", "-")
		k.pipe(stopped("one"), "apply", "--server-side", "-f", "-")
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.cpus}").is("")
	}},
	{"apply --server-side meets a conflict, and --force-conflicts wins it", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "apply", "--server-side", "--field-manager=first", "-f", "-")
		other := strings.Replace(stopped("one"), "Stopped", "Suspended", 1)
		k.run(other, "apply", "--server-side", "--field-manager=second", "-f", "-").ended(1).
			says(`Apply failed with 1 conflict: conflict with "first".*: \.spec\.powerState`, `(?i)--force-conflicts`)
		k.pipe(other, "apply", "--server-side", "--field-manager=second", "--force-conflicts", "-f", "-").has(`serverside-applied`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.powerState}").is("Suspended")
	}},
	{"apply --server-side of the same by two is no conflict", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "apply", "--server-side", "--field-manager=first", "-f", "-")
		k.pipe(stopped("one"), "apply", "--server-side", "--field-manager=second", "-f", "-")
		k.ok("get", "--raw", "/apis/sandboxd.dev/v1/namespaces/"+k.ns+"/sandboxes/one").has(`"manager":"first"`).has(`"manager":"second"`)
	}},
	{"apply --server-side takes over from client-side apply", 26, func(k *kubectl) {
		k.apply(sandbox("one", ", labels: {a: b}", "powerState: Stopped"))
		k.pipe(stopped("one"), "apply", "--server-side", "-f", "-").has(`serverside-applied`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.metadata.labels.a}").is("")
	}},
	{"apply --server-side of core kinds", 0, func(k *kubectl) {
		k.pipe(secret("keys", "a", "b"), "apply", "--server-side", "-f", "-").has(`secret/keys serverside-applied`)
		k.ok("get", "secret", "keys", "-o", "jsonpath={.data.a}").is("Yg==")
	}},
	{"apply --server-side --dry-run=server", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "apply", "--server-side", "--dry-run=server", "-f", "-").has(`serverside-applied \(server dry run\)`)
		k.gone("sbx/one")
	}},
	{"apply --prune with a selector", 0, func(k *kubectl) {
		both := labelled("one", "{set: x}") + labelled("two", "{set: x}")
		flags := []string{"apply", "-f", "-", "--prune", "-l", "set=x", "--prune-whitelist=sandboxd.dev/v1/Sandbox", "-n", k.ns}
		if k.minor >= 26 {
			flags[6] = "--prune-allowlist=sandboxd.dev/v1/Sandbox"
		}
		k.pipe(both, flags...)
		k.apply(stopped("other"))
		k.pipe(labelled("one", "{set: x}"), flags...).has(`^sandbox.sandboxd.dev/one unchanged$`, `^sandbox.sandboxd.dev/two pruned$`)
		k.eventually("two is gone", func() bool { return k.run("", "get", "sbx", "two").code == 1 })
		k.ok("get", "sbx", "other", "one")
	}},
	{"apply --prune --applyset", 27, func(k *kubectl) {
		flags := []string{"apply", "-f", "-", "--prune", "--applyset=secret/the-set", "-n", k.ns}
		alpha := func(stdin string) *result {
			return k.shell(stdin, "env", append([]string{"KUBECTL_APPLYSET=true", k.bin}, flags...)...)
		}
		alpha(stopped("one") + stopped("two")).ended(0)
		alpha(stopped("one")).ended(0).has(`two pruned`)
		k.ok("get", "secret", "the-set", "--show-labels").has(`applyset.kubernetes.io/id=`)
	}},
	{"apply -k builds a kustomization", 0, func(k *kubectl) {
		k.file("k/one.yaml", stopped("one"))
		k.file("k/kustomization.yaml", "resources: [one.yaml]\nnamePrefix: k-\ncommonLabels: {by: kustomize}\nsecretGenerator:\n- {name: keys, literals: [a=b]}\n")
		k.ok("apply", "-k", "k").has(`^secret/k-keys-\w+ created$`, `^sandbox.sandboxd.dev/k-one created$`)
		k.ok("get", "-k", "k", "-o", "name").has(`k-one`)
		k.ok("delete", "-k", "k").has(`"k-one" deleted`)
	}},
	{"kustomize prints", 0, func(k *kubectl) {
		k.file("k/one.yaml", stopped("one"))
		k.file("k/kustomization.yaml", "resources: [one.yaml]\nnameSuffix: -z\npatches: []\n")
		k.ok("kustomize", "k").has(`^  name: one-z$`)
	}},
	{"apply -f DIR -R", 0, func(k *kubectl) {
		k.file("tree/a.yaml", stopped("a"))
		k.file("tree/deep/er/b.yaml", stopped("b"))
		k.ok("apply", "-f", "tree").has(`/a created`).lacks(`/b created`)
		k.ok("apply", "-R", "-f", "tree").has(`/a unchanged`, `/b created`)
	}},
	{"apply goes on after one that is refused", 0, func(k *kubectl) {
		all := stopped("one") + strings.Replace(stopped("bad"), "Stopped", "Sideways", 1) + stopped("two")
		k.run(all, "apply", "-f", "-", "--validate=false").ended(1).has(`one created`, `two created`).says(`The Sandbox "bad" is invalid`)
	}},
	{"apply view-last-applied", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("apply", "view-last-applied", "sbx/one", "-o", "json").has(`"powerState": "Stopped"`)
		k.ok("apply", "view-last-applied", "-f", k.file("one.yaml", stopped("one"))).has(`image: tiny`)
	}},
	{"apply set-last-applied", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "create", "-f", "-")
		k.ok("apply", "view-last-applied", "sbx/one").is("") // kubectl says nothing here
		file := k.file("one.yaml", stopped("one"))
		k.fails(1, "apply", "set-last-applied", "-f", file).says(`no last-applied-configuration annotation found`)
		k.ok("apply", "set-last-applied", "-f", file, "--create-annotation=true").has(`one configured`)
		k.ok("apply", "view-last-applied", "sbx/one").has(`image: tiny`)
	}},
	{"apply edit-last-applied", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.editor(`sed -i 's/powerState: Stopped/powerState: Suspended/' "$1"`)
		k.ok("apply", "edit-last-applied", "sbx/one").has(`one edited`)
		k.ok("apply", "view-last-applied", "sbx/one").has(`powerState: Suspended`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.powerState}").is("Stopped")
	}},
	{"apply brings back what was deleted", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		before := k.get("sbx/one", ".metadata.uid")
		k.ok("delete", "sbx", "one")
		k.apply(stopped("one"))
		if k.get("sbx/one", ".metadata.uid") == before {
			k.t.Error("it has the old uid")
		}
	}},
	{"apply --force makes it anew where a field must not change", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		before := k.get("sbx/one", ".metadata.uid")
		k.pipe(labelled("one", "{a: b}"), "apply", "-f", "-", "--force").has(`configured`)
		if k.get("sbx/one", ".metadata.uid") != before {
			k.t.Error("it was made anew without need")
		}
	}},
	{"apply --wait and --timeout are taken", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "apply", "-f", "-", "--wait=true", "--timeout=1m").has(`created`)
	}},
	{"diff shows what would change, and exits with 1", 0, func(k *kubectl) {
		file := k.file("one.yaml", stopped("one"))
		k.fails(1, "diff", "-f", file).has(`^\+kind: Sandbox$`)
		k.gone("sbx/one")
		k.ok("apply", "-f", file)
		k.settled("one") // a status that changes meanwhile would be a difference
		k.ok("diff", "-f", file).is("")
		k.file("one.yaml", strings.Replace(stopped("one"), "Stopped", "Suspended", 1))
		k.fails(1, "diff", "-f", file).has(`^-  powerState: Stopped$`, `^\+  powerState: Suspended$`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.spec.powerState}").is("Stopped")
	}},
	{"diff --server-side", 0, func(k *kubectl) {
		k.pipe(stopped("one"), "apply", "--server-side", "-f", "-")
		k.settled("one")
		k.pipe(stopped("one"), "diff", "--server-side", "-f", "-").is("")
		k.run(strings.Replace(stopped("one"), "Stopped", "Suspended", 1), "diff", "--server-side", "-f", "-").ended(1).has(`^\+  powerState: Suspended$`)
	}},
	{"diff masks the values of secrets", 22, func(k *kubectl) {
		k.apply(secret("keys", "a", "old-canary"))
		k.run(secret("keys", "a", "new-canary"), "diff", "-f", "-").ended(1).has(`\*\*\* \(before\)`, `\*\*\* \(after\)`)
	}},
	{"diff of what is refused exits with more than 1", 0, func(k *kubectl) {
		r := k.run(strings.Replace(stopped("one"), "Stopped", "Sideways", 1), "diff", "-f", "-")
		if r.code < 2 && k.minor >= 22 || r.code == 0 {
			k.t.Errorf("%s: exit %d", r, r.code)
		}
		r.says(`spec.powerState`)
	}},
}
