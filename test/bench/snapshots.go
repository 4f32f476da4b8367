//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
)

// snapshots measures how long it takes to put a sandbox back to a snapshot, until a
// command runs in it again, beside deleting it, making it again and the same command,
// in turns.
func (b *bench) snapshots(ctx context.Context) error {
	if b.image == "" {
		return nil
	}
	d, err := b.realDaemon(ctx, "snapshots")
	if err != nil {
		return err
	}
	if err := b.reverts(ctx, d); err != nil {
		return err
	}
	if _, err := d.run(ctx, "delete", "goldenimage", "tiny"); err != nil {
		return err
	}
	return d.stop()
}

// reverts takes turns between the ways back to a fresh sandbox.
func (b *bench) reverts(ctx context.Context, d *daemon) error {
	const kept, fresh = "kept", "fresh"
	if err := d.make(ctx, kept); err != nil {
		return err
	}
	take := map[string]float64{}
	for name, flags := range map[string][]string{"disk": nil, "memory": {"--memory"}} {
		seconds, err := timed(func() error {
			_, err := d.run(ctx, append([]string{"snapshot", "create", kept, name, "--wait"}, flags...)...)
			return err
		})
		if err != nil {
			return err
		}
		take[name] = seconds
	}
	if err := d.make(ctx, fresh); err != nil {
		return err
	}
	seconds, ratios := map[string][]float64{}, map[string][]float64{}
	for range b.rounds {
		again, err := timed(func() error {
			if _, err := d.run(ctx, "delete", "sandbox", fresh); err != nil {
				return err
			}
			return d.make(ctx, fresh)
		})
		if err != nil {
			return err
		}
		seconds["recreate"] = append(seconds["recreate"], again)
		for name := range take {
			took, err := timed(func() error {
				if _, err := d.run(ctx, "revert", kept, name, "--wait"); err != nil {
					return err
				}
				_, err := d.run(ctx, "exec", kept, "--", "hostname")
				return err
			})
			if err != nil {
				return err
			}
			seconds[name], ratios[name] = append(seconds[name], took), append(ratios[name], took/again)
		}
	}
	figure("recreate", median(seconds["recreate"]), "s")
	for _, name := range []string{"memory", "disk"} {
		figure("snapshot_"+name, take[name], "s")
		figure("revert_"+name, median(seconds[name]), "s")
		figure("revert_"+name+"_ratio", median(ratios[name]), "of_recreate")
	}
	_, err := d.run(ctx, "delete", "sandbox", kept, fresh)
	return err
}

// make makes a sandbox and runs a command in it.
func (d *daemon) make(ctx context.Context, name string) error {
	manifest := fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: %s}\nspec: {image: tiny}\n", name)
	if err := d.applyText(ctx, name+".yaml", manifest, "--wait", "--timeout", "5m"); err != nil {
		return err
	}
	_, err := d.run(ctx, "exec", name, "--", "hostname")
	return err
}

// realDaemon starts a daemon on the hypervisor, with the golden image imported.
func (b *bench) realDaemon(ctx context.Context, name string) (*daemon, error) {
	if err := os.Chmod(b.dir, 0o755); err != nil { // QEMU's user must pass through
		return nil, err
	}
	if _, err := os.Stat(b.golden()); err != nil {
		if err := copyFile(b.image, b.golden()); err != nil {
			return nil, err
		}
	}
	d, err := b.startDaemon(ctx, name, "--base-image-dir", b.dir)
	if err != nil {
		return nil, err
	}
	golden := "apiVersion: sandboxd.dev/v1\nkind: GoldenImage\nmetadata: {name: tiny}\nspec: {source: {disk: {path: tiny.qcow2}}, machine: {memory: 128Mi}}\n"
	if err := d.applyText(ctx, "golden.yaml", golden); err != nil {
		return nil, err
	}
	_, err = d.run(ctx, "wait", "--for=condition=Ready", "goldenimage/tiny", "--timeout", "5m")
	return d, err
}
