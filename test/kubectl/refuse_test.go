package kubectl_test

import "strings"

var refuseChecks = []check{
	{"a manifest with several mistakes names every field", 0, func(k *kubectl) {
		r := k.run(sandbox("bad", "", "powerState: Sideways\n  cpus: -1\n  network: {mode: carrier-pigeon}"), "create", "-f", "-", "--validate=false").ended(1)
		r.says(`The Sandbox "bad" is invalid`, `spec.powerState: Unsupported value: "Sideways"`, `spec.cpus`, `spec.network.mode`)
	}},
	{"a manifest without what is required", 0, func(k *kubectl) {
		r := k.run("apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: bad}\nspec: {}\n", "create", "-f", "-", "--validate=false").ended(1)
		r.says(`spec.image`)
	}},
	{"a field of the wrong type", 0, func(k *kubectl) {
		k.run(sandbox("bad", "", "cpus: many"), "create", "-f", "-", "--validate=false").ended(1).says(`spec.cpus`, `(?i)must be of type integer|integer`)
	}},
	{"a rule over several fields", 0, func(k *kubectl) {
		k.run(sandbox("bad", "", "network: {mode: none, portForwards: [{name: a, guestPort: 80, hostPort: 8080}]}"), "create", "-f", "-").ended(1).
			says(`The Sandbox "bad" is invalid`, `spec.network`)
	}},
	{"a field that never changes", 0, func(k *kubectl) {
		k.apply("apiVersion: sandboxd.dev/v1\nkind: SandboxSnapshot\nmetadata: {name: shot}\nspec: {sandbox: one}\n")
		k.fails(1, "patch", "snap", "shot", "--type=merge", "-p", `{"spec":{"sandbox":"two"}}`).says(`is invalid`, `spec`)
	}},
	{"a name that is none", 0, func(k *kubectl) {
		k.run(stopped("Not_A_Name"), "create", "-f", "-").ended(1).says(`metadata.name: Invalid value: "Not_A_Name"`, `RFC 1123`)
	}},
	{"a kind that is not served", 0, func(k *kubectl) {
		k.run("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n", "apply", "-f", "-").ended(1).says(`no matches for kind "Deployment" in version "apps/v1"`)
	}},
	{"a manifest without a kind", 0, func(k *kubectl) {
		k.run("metadata: {name: d}\n", "apply", "-f", "-").ended(1).says(`(?i)kind.*(not set|missing|must be)|apiVersion not set`)
	}},
	{"a manifest that is no YAML", 0, func(k *kubectl) {
		k.run("{{{", "apply", "-f", "-").ended(1).says(`error (parsing|converting YAML)|yaml|JSON`)
	}},
	{"scale says that the kind has none", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.fails(1, "scale", "sbx/one", "--replicas=2").says(`(?i)could not find the requested resource|not found|no.*scale`)
	}},
	{"rollout says that the kind has none", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.fails(1, "rollout", "status", "sbx/one").says(`(?i)no status viewer has been implemented|no kind|not implemented`)
		k.fails(1, "rollout", "restart", "sbx/one").says(`(?i)restarting is not supported|no kind "Sandbox" is registered`)
	}},
	{"expose, autoscale and set image say that the kind has none", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.fails(1, "expose", "sbx/one", "--port=80").says(`(?i)cannot expose|no kind "Sandbox" is registered`)
		k.fails(1, "set", "image", "sbx/one", "a=b").says(`(?i)image|not|no kind|unable`)
	}},
	{"an object is in another namespace", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.fails(1, "get", "sbx", "one", "-n", "default").says(`^Error from server \(NotFound\): sandboxes.sandboxd.dev "one" not found$`)
	}},
	{"no server at all", 0, func(k *kubectl) {
		k.fails(1, "get", "sbx", "--server=http://127.0.0.1:1").says(`(?i)refused|unable to connect|connection`)
	}},
	{"an update of metadata that is the server's", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		old := k.ok("get", "sbx", "one", "-o", "json").out
		uid := k.get("sbx/one", ".metadata.uid")
		changed := strings.Replace(old, uid, "00000000-0000-4000-8000-000000000000", 1)
		k.run(changed, "replace", "-f", "-").ended(1).says(`\((Conflict|Invalid)\)|is invalid|Precondition failed`)
	}},
	{"a secret that is too big", 0, func(k *kubectl) {
		r := k.run(secret("big", "a", strings.Repeat("x", 2<<20)), "create", "-f", "-", "--validate=false").ended(1)
		r.says(`(?i)too long|too large|is invalid`)
	}},
	{"bytes that are no base64", 0, func(k *kubectl) {
		k.run("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: '***'}\n", "create", "-f", "-", "--validate=false").ended(1).says(`(?i)base64|is invalid|BadRequest`)
	}},
}
