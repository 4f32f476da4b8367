// Package e2e proves sandboxd as its users meet it: the built program, a
// daemon of its own process, manifests and the command line, real libvirt and
// real guests. Its tests run beside a private libvirt, see hack/test:
//
//	hack/private-libvirt -- go test ./test/e2e
//
// Elsewhere they are skipped; with SANDBOXD_REQUIRE_LIBVIRT=1 they fail.
// SANDBOXD_BIN names the program (default: bin/sandboxd of the tree),
// SANDBOXD_TINY_IMAGE the image made by images/tiny/build.
package e2e
