// Package gitops_test tries what GitOps tools are made of against a daemon: the
// server-side apply engine of Flux with its judgement of objects (kstatus), and the
// engine of Argo CD with the health checks of examples/gitops/argocd. The tools as a
// whole need a cluster to run in, and are not tried.
//
//	manifests ─▶ engine ── TLS, `sandboxd kubeconfig` ──▶ sandboxd serve --simulate
//	    │ changed, taken out       │ healthy, suspended, failed?
//	    └──────────────────────────┘
//
// It is a module of its own: none of this is needed to build sandboxd.
package gitops_test
