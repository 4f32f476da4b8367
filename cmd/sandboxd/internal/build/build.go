// Package build tells which build of sandboxd this is.
package build

import (
	"runtime"
	"runtime/debug"

	"k8s.io/apimachinery/pkg/version"
)

// Version and Commit are set by the linker:
//
//	-ldflags "-X sandboxd.dev/sandboxd/cmd/sandboxd/internal/build.Version=v1.2.3"
//
// Without, they come from what the Go tool records in the binary.
var (
	Version string
	Commit  string
)

// unknown is the version of a build that nothing is known of.
const unknown = "v0.0.0-dev"

// Info of this build, in the form of Kubernetes' /version.
func Info() version.Info {
	info := version.Info{
		GitVersion: Version, GitCommit: Commit,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	recorded, ok := debug.ReadBuildInfo()
	if !ok {
		recorded = &debug.BuildInfo{}
	}
	if info.GitVersion == "" && recorded.Main.Version != "(devel)" {
		info.GitVersion = recorded.Main.Version
	}
	if info.GitVersion == "" {
		info.GitVersion = unknown
	}
	for _, s := range recorded.Settings {
		switch {
		case s.Key == "vcs.revision" && info.GitCommit == "":
			info.GitCommit = s.Value
		case s.Key == "vcs.time":
			info.BuildDate = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			info.GitTreeState = "dirty"
		}
	}
	return info
}
