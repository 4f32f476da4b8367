// Package kubeapiserver_test runs daemons against real Kubernetes API servers:
//
//	hack/kube-apiserver ─▶ plane.Cluster ◀─ kubeconfig ─ sandboxd serve --simulate ◀─ sandboxd exec, apply, …
//
// What a daemon does for a Sandbox is one test, which runs with the embedded API server
// and with a real one: nothing but the kubeconfig is different. The rest is about what
// only a cluster has: rights, a second host, an API server that is restarted, set back
// or exchanged. `make test-kube-apiserver` runs it; without it, it is skipped.
package kubeapiserver_test
