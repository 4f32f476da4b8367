//go:build linux

package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

//go:embed plain.sh
var plainScript string

// real measures from the request for a sandbox to the first command that ran
// in it, through sandboxd's command line and by a plain script, in turns, on
// the same image.
func (b *bench) real(ctx context.Context) error {
	if b.image == "" {
		return nil
	}
	script := filepath.Join(b.dir, "plain.sh")
	if err := os.WriteFile(script, []byte(plainScript), 0o755); err != nil {
		return err
	}
	d, err := b.realDaemon(ctx, "real")
	if err != nil {
		return err
	}
	if err := b.duel(ctx, d, script, b.golden()); err != nil {
		return err
	}
	if _, err := d.run(ctx, "delete", "goldenimage", "tiny"); err != nil {
		return err
	}
	return d.stop()
}

// golden is where a daemon finds the golden image.
func (b *bench) golden() string { return filepath.Join(b.dir, "tiny.qcow2") }

// duel lets both make machines in turns.
func (b *bench) duel(ctx context.Context, d *daemon, script, image string) error {
	var ours, plain, ratios, oursDown, plainDown []float64
	for i := range b.rounds + 1 {
		name := fmt.Sprintf("bench-%d", i)
		up, down, err := d.sandbox(ctx, name)
		if err != nil {
			return err
		}
		plainUp, err := timed(func() error { return shell(ctx, script, "up", image, b.dir, name) })
		if err != nil {
			return err
		}
		plainGone, err := timed(func() error { return shell(ctx, script, "down", b.dir, name) })
		if err != nil {
			return err
		}
		if i == 0 {
			continue // to warm up
		}
		ours, oursDown = append(ours, up), append(oursDown, down)
		plain, plainDown = append(plain, plainUp), append(plainDown, plainGone)
		ratios = append(ratios, up/plainUp)
	}
	figure("first_exec_sandboxd", median(ours), "s")
	figure("first_exec_plain", median(plain), "s")
	figure("first_exec_ratio", median(ratios), "of_plain")
	figure("delete_sandboxd", median(oursDown), "s")
	figure("delete_plain", median(plainDown), "s")
	return nil
}

// sandbox makes a sandbox, runs a command in it and deletes it. It returns the
// seconds until the command had run, and those until all was gone.
func (d *daemon) sandbox(ctx context.Context, name string) (up, down float64, err error) {
	manifest := fmt.Sprintf("apiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: %s}\nspec: {image: tiny}\n", name)
	up, err = timed(func() error {
		if err := d.applyText(ctx, name+".yaml", manifest, "--wait", "--timeout", "5m"); err != nil {
			return err
		}
		_, err := d.run(ctx, "exec", name, "--", "hostname")
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	down, err = timed(func() error { _, err := d.run(ctx, "delete", "sandbox", name); return err })
	return up, down, err
}

func (d *daemon) applyText(ctx context.Context, file, manifest string, args ...string) error {
	path := filepath.Join(d.dir, file)
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		return err
	}
	_, err := d.run(ctx, append([]string{"apply", "-f", path}, args...)...)
	return err
}

func timed(f func() error) (float64, error) {
	start := time.Now()
	err := f()
	return time.Since(start).Seconds(), err
}

func shell(ctx context.Context, script string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, script, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", filepath.Base(script), args, err, out)
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}
