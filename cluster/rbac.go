package cluster

import _ "embed" // the manifests

// RBAC are the manifests of a service account with exactly the rights that a daemon
// needs, in YAML.
//
//go:embed rbac.yaml
var RBAC string

// Namespace is that of the service account and of the Lease, unless another is set.
const Namespace = "sandboxd-system"
