package apiserver

import (
	"strings"

	"k8s.io/apimachinery/pkg/version"
)

// The version of Kubernetes whose API this is: that of the libraries that it is
// made of.
const (
	kubernetesMajor = "1"
	kubernetesMinor = "37"
	kubernetesPatch = "2"
)

// ServedVersion is what /version answers. Clients take its GitVersion for that of
// a Kubernetes and refuse, warn, or do without what an older one lacks: so it
// names the Kubernetes whose API this is, and the program behind the plus, where
// it does not count in comparisons. Programs that know sandboxd read Sandboxd.
type ServedVersion struct {
	version.Info `json:",inline"`
	// Sandboxd is the version of the program.
	Sandboxd string `json:"sandboxd"`
}

// servedVersion is the answer of a build.
func servedVersion(build version.Info) ServedVersion {
	v := ServedVersion{Info: build, Sandboxd: build.GitVersion}
	v.Major, v.Minor = kubernetesMajor, kubernetesMinor
	v.GitVersion = "v" + strings.Join([]string{kubernetesMajor, kubernetesMinor, kubernetesPatch}, ".")
	if label := versionLabel(build.GitVersion); label != "" {
		v.GitVersion += "+sandboxd." + label
	}
	return v
}

// versionLabel makes a version fit to stand behind the plus of another one:
// letters, digits and hyphens, in parts between dots.
func versionLabel(text string) string {
	parts := strings.FieldsFunc(text, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-'
	})
	return strings.Join(parts, ".")
}
