// Package kubectl_test drives a daemon by kubectl as it is released: an old one, which
// many systems still have, and a current one.
//
//	hack/fetch-kubectl ─▶ SANDBOXD_KUBECTL_OLD, SANDBOXD_KUBECTL_CURRENT
//	                          │
//	checks (NAME_test.go) ── each check, with each kubectl that has the flags for it ─▶ sandboxd serve --simulate
//	                          │    in a namespace of its own
//	                          └─▶ the table: kubectl 1.20: n of m, kubectl 1.37: n of m
//
// A check runs the program and looks at what it printed, at its exit code and at what is
// there afterwards. A new one is an entry in one of the lists; SANDBOXD_KUBECTL_CHECK
// names a part of those to run, as a regular expression.
package kubectl_test
