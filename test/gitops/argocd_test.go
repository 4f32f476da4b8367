package gitops_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/cache"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/engine"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/health"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync/common"
	"github.com/go-logr/logr"
	lua "github.com/yuin/gopher-lua"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"sandboxd.dev/sandboxd/test/daemon"
)

// mark tells the objects of an application, as Argo CD's tracking annotation does.
const mark = "argocd.argoproj.io/tracking-id"

// TestArgoCD syncs with Argo CD's engine: its cache of everything that is served, its
// differences, server-side apply in waves, health by the scripts of the example, and
// pruning.
func TestArgoCD(t *testing.T) {
	h := start(t)
	checks := healthChecks(t)
	filter := exclusions{}
	clusterCache := cache.NewClusterCache(h.config,
		cache.SetSettings(cache.Settings{ResourceHealthOverride: checks, ResourcesFilter: filter}),
		cache.SetLogr(logr.Discard()),
		cache.SetPopulateResourceInfoHandler(func(u *unstructured.Unstructured, _ bool) (any, bool) {
			id := u.GetAnnotations()[mark]
			return id, id != ""
		}))
	e := engine.NewEngine(h.config, clusterCache, engine.WithLogr(logr.Discard()))
	stop, err := e.Run()
	must(t, err)
	defer stop()

	syncTo := func(all []*unstructured.Unstructured) []common.ResourceSyncResult {
		t.Helper()
		for _, u := range all {
			annotations := u.GetAnnotations()
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[mark] = "sandboxes"
			u.SetAnnotations(annotations)
		}
		ctx, cancel := context.WithTimeout(t.Context(), daemon.Patience)
		defer cancel()
		results, err := e.Sync(ctx, all, func(r *cache.Resource) bool { return r.Info == "sandboxes" }, "revision", "default",
			sync.WithPrune(true), sync.WithPruneLast(true), sync.WithServerSideApply(true), sync.WithServerSideApplyManager("argocd-controller"),
			sync.WithHealthOverride(checks), sync.WithLogr(logr.Discard()))
		if err != nil {
			t.Fatalf("%v: %v", err, results)
		}
		return results
	}
	healthy := func(kind, namespace, name string, want health.HealthStatusCode) {
		t.Helper()
		until(t, fmt.Sprintf("%s %s is %s", kind, name, want), func() bool {
			got, err := health.GetResourceHealth(h.get(t, kind, namespace, name), checks)
			must(t, err)
			return got.Status == want
		})
	}

	for _, r := range syncTo(load(t)) {
		if r.Status != common.ResultCodeSynced {
			t.Errorf("%v: %s %s", r.ResourceKey, r.Status, r.Message)
		}
	}
	healthy("GoldenImage", "", "tiny", health.HealthStatusHealthy)
	healthy("Sandbox", "team-a", "worker", health.HealthStatusHealthy)
	healthy("SandboxSnapshot", "default", "toolchain", health.HealthStatusHealthy)
	healthy("Sandbox", "default", "asleep", health.HealthStatusHealthy)

	// A change, and something that cannot be.
	all := append(load(t), parse(t, stalled)...)
	must(t, unstructured.SetNestedField(find(t, all, "Sandbox", "worker").Object, int64(2), "spec", "cpus"))
	syncTo(all)
	healthy("Sandbox", "default", "impossible", health.HealthStatusDegraded)
	if cpus, _, _ := unstructured.NestedInt64(h.get(t, "Sandbox", "team-a", "worker").Object, "spec", "cpus"); cpus != 2 {
		t.Errorf("the sandbox has %d cpus", cpus)
	}
	healthy("Sandbox", "team-a", "worker", health.HealthStatusHealthy)

	// What left the source is pruned, and nothing else.
	until(t, "the engine has seen the sandbox", func() bool {
		return len(clusterCache.FindResources("default", func(r *cache.Resource) bool { return r.Ref.Name == "impossible" })) > 0
	})
	syncTo(without(load(t), "Sandbox", "nat"))
	until(t, "what left the source is gone", func() bool {
		return h.get(t, "Sandbox", "default", "nat") == nil && h.get(t, "Sandbox", "default", "impossible") == nil
	})
	if h.get(t, "Sandbox", "team-a", "worker") == nil {
		t.Error("a sandbox is gone that is in the source")
	}
}

// exclusions are those of the example.
type exclusions struct{}

// IsExcludedResource implements what the cache asks.
func (exclusions) IsExcludedResource(group, kind, _ string) bool {
	return group == "" && (kind == "Pod" || kind == "Event") || group == "events.k8s.io"
}

// scripts judge objects as Argo CD runs them: obj is the object, and the script
// returns a table with a status and a message.
type scripts map[schema.GroupKind]string

// GetResourceHealth implements health.HealthOverride.
func (s scripts) GetResourceHealth(u *unstructured.Unstructured) (*health.HealthStatus, error) {
	script, ok := s[u.GroupVersionKind().GroupKind()]
	if !ok {
		return nil, nil
	}
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer l.Close()
	for _, open := range []lua.LGFunction{lua.OpenBase, lua.OpenTable, lua.OpenString, lua.OpenMath} {
		open(l)
	}
	l.SetGlobal("obj", value(l, u.Object))
	if err := l.DoString(script); err != nil {
		return nil, err
	}
	result, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		return nil, fmt.Errorf("the script of %s returns no table", u.GetKind())
	}
	return &health.HealthStatus{
		Status: health.HealthStatusCode(lua.LVAsString(result.RawGetString("status"))), Message: lua.LVAsString(result.RawGetString("message")),
	}, nil
}

// value is a part of an object as scripts see it.
func value(l *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case map[string]any:
		table := l.NewTable()
		for key, below := range v {
			table.RawSetString(key, value(l, below))
		}
		return table
	case []any:
		table := l.NewTable()
		for _, below := range v {
			table.Append(value(l, below))
		}
		return table
	case string:
		return lua.LString(v)
	case bool:
		return lua.LBool(v)
	case int64:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	default:
		return lua.LNil
	}
}

// healthChecks reads the scripts of the example.
func healthChecks(t *testing.T) scripts {
	t.Helper()
	var cm corev1.ConfigMap
	must(t, yaml.UnmarshalStrict([]byte(example(t, "argocd/argocd-cm.yaml")), &cm))
	found := scripts{}
	for _, kind := range []string{"Sandbox", "GoldenImage", "SandboxSnapshot"} {
		script := cm.Data["resource.customizations.health.sandboxd.dev_"+kind]
		if script == "" {
			t.Fatalf("there is no health check of %s", kind)
		}
		found[schema.GroupKind{Group: "sandboxd.dev", Kind: kind}] = script
	}
	return found
}

// TestHealth: an object that was not looked at since it was changed is not healthy.
func TestHealth(t *testing.T) {
	checks := healthChecks(t)
	for name, c := range map[string]struct {
		text string
		want health.HealthStatusCode
	}{
		"new":       {"{}", health.HealthStatusProgressing},
		"ready":     {"{conditions: [{type: Ready, status: 'True', reason: AsSpecified, observedGeneration: 2}]}", health.HealthStatusHealthy},
		"before":    {"{conditions: [{type: Ready, status: 'True', reason: AsSpecified, observedGeneration: 1}]}", health.HealthStatusProgressing},
		"not ready": {"{conditions: [{type: Ready, status: 'False', reason: Creating, observedGeneration: 2}]}", health.HealthStatusProgressing},
		"off":       {"{conditions: [{type: Ready, status: 'False', reason: Stopped, observedGeneration: 2}]}", health.HealthStatusProgressing},
		"stalled":   {"{conditions: [{type: Ready, status: 'False', reason: Invalid, observedGeneration: 2}, {type: Stalled, status: 'True', observedGeneration: 2}]}", health.HealthStatusDegraded},
	} {
		u := parse(t, "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: x, generation: 2}\nspec: {image: tiny, powerState: Running}\nstatus: "+c.text)[0]
		got, err := checks.GetResourceHealth(u)
		must(t, err)
		if got.Status != c.want {
			t.Errorf("%s: %s", name, got.Status)
		}
	}
	off := parse(t, "apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: x, generation: 2}\nspec: {image: tiny, powerState: Stopped}\n"+
		"status: {conditions: [{type: Ready, status: 'False', reason: Stopped, observedGeneration: 2}]}")[0]
	if got, err := checks.GetResourceHealth(off); err != nil || got.Status != health.HealthStatusHealthy {
		t.Errorf("off: %v, %v", got, err)
	}
}
