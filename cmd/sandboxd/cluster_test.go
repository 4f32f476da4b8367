package main

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sandboxd.dev/sandboxd/test/kubeapiserver/plane"
)

// kubeconfigVar has the daemons of a script serve a cluster's objects.
const kubeconfigVar = "SANDBOXD_KUBECONFIG"

// inCluster are the scripts that are about sandboxes alone, and so must pass whoever
// keeps them: not about the store, nor namespaces and Secrets, which a cluster's users
// write to the cluster.
var inCluster = []string{"quickstart", "exec", "copy", "snapshots", "disk", "image", "wait", "capacity"}

// TestScriptsInCluster runs scripts again, with a real kube-apiserver of each one's own.
// Nothing else is different than in TestScripts.
func TestScriptsInCluster(t *testing.T) {
	plane.Required(t)
	params := scriptParams()
	for _, name := range inCluster {
		params.Files = append(params.Files, filepath.Join("testdata", "script", name+".txtar"))
	}
	params.Setup = func(env *testscript.Env) error {
		if err := setup(env); err != nil {
			return err
		}
		c, err := plane.Start(filepath.Join(env.WorkDir, "kubernetes"))
		if err != nil {
			return err
		}
		env.Defer(func() { _ = c.Stop() })
		kubeconfig, err := c.Install(context.Background())
		if err != nil {
			return err
		}
		env.Setenv(kubeconfigVar, kubeconfig)
		return nil
	}
	testscript.Run(t, params)
}
