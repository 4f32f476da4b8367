package apiserver_test

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"k8s.io/apimachinery/pkg/util/version"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"

	"sandboxd.dev/sandboxd/apiserver"
)

// TestVersion reads /version as kubectl and GitOps tools do, and as sandboxd.
func TestVersion(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	library := regexp.MustCompile(`k8s\.io/apimachinery v0\.(\d+\.\d+)`).FindSubmatch(mod)
	if library == nil {
		t.Fatal("go.mod does not say which apimachinery this is made of")
	}
	want := "v1." + string(library[1])
	for build, served := range map[string]string{
		"":                           want,
		"v0.4.0":                     want + "+sandboxd.v0.4.0",
		"v0.4.0-3-gabcdef+simulated": want + "+sandboxd.v0.4.0-3-gabcdef.simulated",
		"a b/ü+":                     want + "+sandboxd.a.b",
	} {
		s := newServer(t, func(o *apiserver.Options) { o.Version = apiversion.Info{GitVersion: build, GitCommit: "abc"} })
		client, err := discovery.NewDiscoveryClientForConfig(s.LoopbackConfig())
		if err != nil {
			t.Fatal(err)
		}
		got, err := client.ServerVersion()
		if err != nil || got.GitVersion != served || got.Major != "1" || want != "v1."+got.Minor+want[len("v1."+got.Minor):] || got.GitCommit != "abc" {
			t.Errorf("build %q: the version is %+v: %v", build, got, err)
			continue
		}
		parsed, err := version.ParseSemantic(got.GitVersion)
		if err != nil || !parsed.AtLeast(version.MustParseSemantic(want)) || parsed.PreRelease() != "" {
			t.Errorf("build %q: clients read %q as %v: %v", build, got.GitVersion, parsed, err)
		}
		var own apiserver.ServedVersion
		if err := json.Unmarshal((api{t: t, handler: s.Handler()}).get("/version").want(200).body, &own); err != nil || own.Sandboxd != build {
			t.Errorf("build %q: it says of itself %+v: %v", build, own, err)
		}
	}
}
