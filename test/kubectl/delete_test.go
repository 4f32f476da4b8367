package kubectl_test

import (
	"fmt"
	"strings"

	"sandboxd.dev/sandboxd/test/daemon"
)

// held is a secret that stays until its finalizer is taken away.
func held(name string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, finalizers: [example.org/hold]}\n", name)
}

// owned is a secret with an owner.
func owned(name, owner, uid string, block bool) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Secret
metadata:
  name: %s
  ownerReferences: [{apiVersion: v1, kind: Secret, name: %s, uid: %q, blockOwnerDeletion: %v}]
`, name, owner, uid, block)
}

// release takes a finalizer away.
func (k *kubectl) release(object string) {
	k.t.Helper()
	k.ok("patch", object, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
}

var deleteChecks = []check{
	{"delete by name waits until it is gone", 0, func(k *kubectl) {
		k.apply(running("one"))
		k.ready("one")
		k.ok("delete", "sbx", "one").has(`^sandbox.sandboxd.dev "one" deleted`)
		k.gone("sbx/one")
	}},
	{"delete TYPE/NAME of several kinds", 0, func(k *kubectl) {
		k.apply(stopped("one") + secret("keys", "a", "b"))
		k.ok("delete", "sbx/one", "secret/keys").has(`"one" deleted`, `"keys" deleted`)
	}},
	{"delete -l", 0, func(k *kubectl) {
		k.apply(labelled("one", "{a: b}") + stopped("two"))
		k.ok("delete", "sbx", "-l", "a=b").has(`"one" deleted`).lacks(`two`)
		k.ok("get", "sbx", "-o", "name").is("sandbox.sandboxd.dev/two")
		k.ok("delete", "sbx", "-l", "a=b").is("No resources found")
	}},
	{"delete --all", 0, func(k *kubectl) {
		k.apply(stopped("one") + stopped("two"))
		k.ok("delete", "sbx", "--all").has(`"one" deleted`, `"two" deleted`)
		k.ok("get", "sbx").is("")
	}},
	{"delete --field-selector", 0, func(k *kubectl) {
		k.apply(stopped("one") + stopped("two"))
		k.ok("delete", "sbx", "--field-selector=metadata.name=two").has(`"two" deleted`)
		k.ok("get", "sbx", "-o", "name").is("sandbox.sandboxd.dev/one")
	}},
	{"delete -f", 0, func(k *kubectl) {
		file := k.file("all.yaml", stopped("one")+secret("keys", "a", "b"))
		k.ok("apply", "-f", file)
		k.ok("delete", "-f", file).has(`"one" deleted`, `"keys" deleted`)
		k.fails(1, "delete", "-f", file).says(`\(NotFound\).*sandboxes.sandboxd.dev "one" not found`)
		k.ok("delete", "-f", file, "--ignore-not-found").is("")
	}},
	{"delete -f that names an image before its sandboxes", 0, func(k *kubectl) {
		image := k.file("0.yaml", fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: GoldenImage\nmetadata: {name: %s}\nspec: {source: {disk: {path: %s}}}\n", k.ns, daemon.Image))
		box := k.file("1.yaml", strings.ReplaceAll(running("one"), "image: tiny", "image: "+k.ns))
		k.ok("apply", "-f", image, "-f", box)
		k.ready("one")
		k.ok("delete", "gi", k.ns, "--wait=false").has(`deleted`)
		k.ok("wait", "gi", k.ns, "--for=condition=Ready=false", "--timeout=1m")
		k.ok("get", "gi", k.ns, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].message}").is("to be deleted once it is not used any more by 1 sandbox (" + k.ns + "/one)")
		k.ready("one")
		k.ok("delete", "-f", image, "-f", box).has(k.ns+`" deleted`, `"one" deleted`)
		k.gone("gi/" + k.ns)
	}},
	{"delete -o name", 0, func(k *kubectl) {
		k.apply(secret("keys", "a", "b"))
		k.ok("delete", "secret", "keys", "-o", "name").is("secret/keys")
	}},
	{"delete --wait=false does not wait", 0, func(k *kubectl) {
		k.apply(held("one"))
		k.ok("delete", "secret", "one", "--wait=false").has(`deleted`)
		k.ok("get", "secret", "one", "-o", "jsonpath={.metadata.deletionTimestamp}").has(`^\d{4}-`)
		k.release("secret/one")
		k.gone("secret/one")
	}},
	{"delete waits for finalizers, up to --timeout", 0, func(k *kubectl) {
		k.apply(held("one"))
		k.timesOut(`timed out waiting for the condition`, "delete", "secret", "one")
		p := k.start("delete", "secret", "one")
		p.shows(`deleted`)
		k.release("secret/one")
		p.wait().ended(0)
		k.gone("secret/one")
	}},
	{"delete --dry-run=server deletes nothing", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("delete", "sbx", "one", "--dry-run=server").has(`"one" deleted.* \(server dry run\)`)
		k.ok("get", "sbx", "one", "-o", "jsonpath={.metadata.deletionTimestamp}").is("")
		k.ok("delete", "sbx", "one", "--dry-run=client").has(`\(dry run\)`)
		k.ok("get", "sbx", "one")
	}},
	{"delete --grace-period and --now", 0, func(k *kubectl) {
		k.apply(stopped("one") + secret("keys", "a", "b"))
		k.ok("delete", "sbx", "one", "--grace-period=1").has(`deleted`)
		k.ok("delete", "secret", "keys", "--now").has(`deleted`)
		k.gone("sbx/one")
		k.gone("secret/keys")
	}},
	{"delete --force", 0, func(k *kubectl) {
		k.apply(secret("keys", "a", "b"))
		k.ok("delete", "secret", "keys", "--force", "--grace-period=0").has(`"keys" force deleted`)
		k.gone("secret/keys")
	}},
	{"delete --cascade=background deletes what it owns", 0, func(k *kubectl) {
		k.apply(secret("owner", "a", "b"))
		k.apply(owned("child", "owner", k.get("secret/owner", ".metadata.uid"), false))
		k.ok("delete", "secret", "owner")
		k.eventually("the child is gone", func() bool { return k.run("", "get", "secret", "child").code == 1 })
	}},
	{"delete --cascade=orphan leaves it", 0, func(k *kubectl) {
		k.apply(secret("owner", "a", "b"))
		k.apply(owned("child", "owner", k.get("secret/owner", ".metadata.uid"), false))
		k.ok("delete", "secret", "owner", "--cascade=orphan")
		k.gone("secret/owner")
		k.ok("get", "secret", "child", "-o", "jsonpath={.metadata.ownerReferences}").is("")
	}},
	{"delete --cascade=foreground deletes what it owns first", 0, func(k *kubectl) {
		k.apply(secret("owner", "a", "b"))
		uid := k.get("secret/owner", ".metadata.uid")
		k.apply(strings.Replace(owned("child", "owner", uid, true), "metadata:\n", "metadata:\n  finalizers: [example.org/hold]\n", 1))
		k.ok("delete", "secret", "owner", "--cascade=foreground", "--wait=false")
		k.ok("get", "secret", "owner", "-o", "jsonpath={.metadata.finalizers[0]}").is("foregroundDeletion")
		k.eventually("the child is being deleted", func() bool { return k.get("secret/child", ".metadata.deletionTimestamp") != "" })
		k.ok("get", "secret", "owner")
		k.release("secret/child")
		k.eventually("both are gone", func() bool { return k.run("", "get", "secret", "owner").code == 1 })
		k.gone("secret/child")
	}},
	{"delete --raw", 0, func(k *kubectl) {
		k.apply(secret("keys", "a", "b"))
		k.ok("delete", "--raw", "/api/v1/namespaces/"+k.ns+"/secrets/keys").has(`"status":"Success"|"kind":"Secret"`)
		k.gone("secret/keys")
	}},
	{"delete namespace takes all that is in it", 0, func(k *kubectl) {
		inner := k.ns + "-in"
		k.apply(namespace(inner))
		k.pipe(running("one")+secret("keys", "a", "b"), "apply", "-n", inner, "-f", "-")
		k.ok("delete", "ns", inner).has(`^namespace "` + inner + `" deleted`)
		k.gone("ns/" + inner)
		k.fails(1, "get", "sbx", "one", "-n", inner).says(`NotFound`)
	}},
	{"a namespace that is being deleted takes nothing new", 0, func(k *kubectl) {
		inner := k.ns + "-in"
		k.apply(namespace(inner))
		k.pipe(held("one"), "apply", "-n", inner, "-f", "-")
		k.ok("delete", "ns", inner, "--wait=false")
		k.ok("get", "ns", inner).has(` Terminating `)
		k.run(secret("late", "a", "b"), "create", "-n", inner, "-f", "-").ended(1).
			says(`\(Forbidden\).*unable to create new content in namespace ` + inner + ` because it is being terminated`)
		k.ok("patch", "secret", "one", "-n", inner, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		k.eventually("the namespace is gone", func() bool { return k.run("", "get", "ns", inner).code == 1 })
	}},
	{"the namespace default stays", 0, func(k *kubectl) {
		k.fails(1, "delete", "ns", "default").says(`\(Forbidden\)`)
		k.ok("get", "ns", "default").has(`Active`)
	}},
	{"delete of a customresourcedefinition is refused", 0, func(k *kubectl) {
		k.fails(1, "delete", "crd", "sandboxes.sandboxd.dev").says(`\((MethodNotAllowed|Forbidden)\)`)
	}},
	{"delete of what is not there", 0, func(k *kubectl) {
		k.fails(1, "delete", "sbx", "nope").says(`^Error from server \(NotFound\): sandboxes.sandboxd.dev "nope" not found$`)
		k.ok("delete", "sbx", "nope", "--ignore-not-found").is("")
	}},
}
