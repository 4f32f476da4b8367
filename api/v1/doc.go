// Package v1 holds the kinds of the API group sandboxd.dev, version v1.
//
//	GoldenImage (cluster-scoped)            a sealed disk that sandboxes are cloned from
//	   ▲ spec.image
//	Sandbox     (namespaced)                one throw-away virtual machine
//	   ▲ spec.sandbox      │ spec.fromSnapshot
//	SandboxSnapshot (namespaced) ◀┘         its state at one moment
//
// The Go types in this package are the single source of the API: the deepcopy
// functions (zz_generated.deepcopy.go) and the CustomResourceDefinitions
// (crds/*.yaml, embedded by CRDs) are generated from them by `make generate`.
// The CRDs in turn drive everything the API server does with these kinds:
// defaults, pruning, validation, CEL rules, printer columns and OpenAPI. They
// also install on an ordinary Kubernetes cluster.
//
// Desired and observed state never share a word: what a user asks for lives in
// spec (powerState: Running), what was seen lives in status (condition
// PoweredOn). status.phase exists for printing only; no code branches on it.
//
// +groupName=sandboxd.dev
// +kubebuilder:object:generate=true
package v1
