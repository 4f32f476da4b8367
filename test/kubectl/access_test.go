package kubectl_test

import "regexp"

// address is one of the loopback interface, with its port.
var address = regexp.MustCompile(`127\.0\.0\.1:\d+`)

var accessChecks = []check{
	{"auth can-i of an administrator", 0, func(k *kubectl) {
		k.ok("auth", "can-i", "create", "sandboxes").is("yes")
		k.ok("auth", "can-i", "delete", "ns").is("yes")
		k.ok("auth", "can-i", "*", "*").is("yes")
		k.ok("auth", "can-i", "get", "/metrics").is("yes")
	}},
	{"auth can-i --list", 0, func(k *kubectl) {
		k.ok("auth", "can-i", "--list").has(`^Resources +Non-Resource URLs +Resource Names +Verbs`, `\*\.\* .*\[\*\]`)
	}},
	{"a user of one namespace works there, and nowhere else", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		user := *k
		user.config = k.d.KubeconfigOf(k.t, "alice-"+k.ns, k.ns, "--role", "user", "--namespace", k.ns)
		user.ok("get", "sbx", "-o", "name").is("sandbox.sandboxd.dev/one")
		user.apply(stopped("two"))
		user.ok("auth", "can-i", "create", "sandboxes").is("yes")
		user.fails(1, "auth", "can-i", "create", "sandboxes", "-n", "default").has(`^no`)
		user.fails(1, "get", "secrets", "-n", "default").says(`^Error from server \(Forbidden\): secrets is forbidden: User "alice-` + k.ns + `" cannot list resource "secrets" in API group "" in the namespace "default"`)
		user.fails(1, "delete", "ns", k.ns).says(`\(Forbidden\)`)
	}},
	{"one who may only read changes nothing", 0, func(k *kubectl) {
		k.apply(stopped("one") + secret("keys", "a", "b"))
		reader := *k
		reader.config = k.d.KubeconfigOf(k.t, "reader-"+k.ns, k.ns, "--role", "read-only", "--token")
		reader.ok("get", "sbx", "one")
		reader.fails(1, "delete", "sbx", "one").says(`\(Forbidden\).*cannot delete resource "sandboxes"`)
		reader.run(stopped("two"), "create", "-f", "-").ended(1).says(`\(Forbidden\)`)
		reader.fails(1, "get", "secret", "keys").says(`\(Forbidden\)`)
		reader.fails(1, "auth", "can-i", "delete", "sandboxes").has(`^no`)
	}},
	{"a credential that nobody gave is not let in", 0, func(k *kubectl) {
		stranger := *k
		stranger.config = k.d.KubeconfigOf(k.t, "stranger-"+k.ns, k.ns, "--token")
		stranger.fails(1, "get", "sbx").says(`\(Forbidden\)`)
		stranger.fails(1, "get", "sbx", "--token=wrong").says(`Unauthorized|must be logged in|\(Forbidden\)`)
	}},
	{"auth whoami", 28, func(k *kubectl) {
		k.ok("auth", "whoami").has(`^Username +\S+`, `^Groups +\[`)
		k.ok("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}").has(`.`)
	}},
}

var otherChecks = []check{
	{"config view shows the kubeconfig and hides what is secret", 0, func(k *kubectl) {
		k.ok("config", "view").has(`^kind: Config$`, `namespace: `+k.ns).lacks(`PRIVATE KEY`)
		k.ok("config", "current-context").has(`.`)
		k.ok("config", "get-contexts").has(`^\* +`)
	}},
	{"config set-context --current --namespace", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("config", "set-context", "--current", "--namespace=default")
		k.fails(1, "get", "sbx", "one").says(`NotFound`)
		k.ok("get", "sbx", "one", "-n", k.ns)
	}},
	{"convert of versions that do not differ: get by group and version", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		k.ok("get", "sandboxes.v1.sandboxd.dev/one", "-o", "jsonpath={.apiVersion}").is("sandboxd.dev/v1")
	}},
	{"proxy serves the API without credentials", 0, func(k *kubectl) {
		k.apply(stopped("one"))
		p := k.start("proxy", "--port=0")
		p.shows(`^Starting to serve on 127.0.0.1:\d+`)
		server := "http://" + address.FindString(p.out.String())
		k.ok("get", "sbx", "one", "-o", "name", "--server="+server, "--kubeconfig=/dev/null", "-n", k.ns).is("sandbox.sandboxd.dev/one")
		p.interrupt()
	}},
	{"options and plugin list ask nobody", 0, func(k *kubectl) {
		k.ok("options").has(`--kubeconfig`)
	}},
	{"cluster-info dump fails with a sentence, or dumps", 0, func(k *kubectl) {
		r := k.run("", "cluster-info", "dump")
		if r.code != 0 && r.err == "" {
			k.t.Errorf("%s", r)
		}
	}},
	{"requests that ask for impersonation are answered truly", 0, func(k *kubectl) {
		r := k.run("", "auth", "can-i", "create", "sandboxes", "--as=somebody")
		if r.out == "yes\n" && r.code == 0 {
			k.t.Errorf("somebody may do what an administrator may: %s", r)
		}
	}},
}
