// Package build tells which build of sandboxd this is.
package build

import (
	"runtime"
	"runtime/debug"

	"k8s.io/apimachinery/pkg/util/version"
	apiversion "k8s.io/apimachinery/pkg/version"
)

// unknown is the version of a build that nothing is known of.
const unknown = "v0.0.0-dev"

// semantic makes a version of what git describes a tree without tags by, its commit.
// Clients parse the version of a server: Argo CD refuses one that has none.
func semantic(described string) string {
	if _, err := version.ParseGeneric(described); err == nil {
		return described
	}
	return "v0.0.0-g" + described
}

// Info of this build, in the form of Kubernetes' /version. linked is the version
// that the linker was told; empty means what the Go tool has recorded.
func Info(linked string) apiversion.Info {
	info := apiversion.Info{
		GitVersion: linked,
		GoVersion:  runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
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
	info.GitVersion = semantic(info.GitVersion)
	for _, s := range recorded.Settings {
		switch {
		case s.Key == "vcs.revision":
			info.GitCommit = s.Value
		case s.Key == "vcs.time":
			info.BuildDate = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			info.GitTreeState = "dirty"
		}
	}
	return info
}
