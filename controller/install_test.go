package controller_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers/fake"
)

// installedImage is an image from an installer, whose ISO is there.
func installedImage(d *daemon, name string, steps ...v1.ProvisionStep) *v1.GoldenImage {
	d.t.Helper()
	img := goldenImage(name)
	const path = "installer.iso"
	must(d.t, os.WriteFile(filepath.Join(d.dir, path), []byte("an installer"), 0o600))
	size := resource.MustParse("1Gi")
	img.Spec.Source = v1.ImageSource{ISO: &v1.ISOSource{
		Path: path, DiskSize: &size,
		Unattended: v1.UnattendedInstall{User: "alice", Hostname: "golden", PasswordSecretRef: v1.SecretReference{Namespace: "default", Name: "password"}},
	}}
	img.Spec.Provision = steps
	return img
}

func passwordSecret() *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "password"},
		StringData: map[string]string{"password": "secret"},
	}
}

func TestInstalledImage(t *testing.T) {
	for name, steps := range map[string][]v1.ProvisionStep{"plain": nil, "provisioned": {script("mark", "echo done >/opt/mark")}} {
		t.Run(name, func(t *testing.T) {
			d := host(t, fake.Options{})
			d.start()
			img := installedImage(d, "installed", steps...)
			sbx := newSandbox("web")
			sbx.Spec.Image = img.Name
			d.create(img, sbx)
			until(d, img, "waiting for the secret", func(img *v1.GoldenImage) bool {
				return strings.Contains(condition(img, v1.ConditionReady).Message, "there is no Secret default/password")
			})
			d.create(passwordSecret())
			until(d, sbx, "ready", ready)
			until(d, img, "settled", settled)
			if got := strings.TrimSpace(d.inGuest(sbx.UID, "sh", "-c", "test -d /home/alice && echo home")); got != "home" {
				t.Errorf("the user's home: %q", got)
			}
			if len(steps) > 0 && strings.TrimSpace(d.inGuest(sbx.UID, "cat", "/opt/mark")) != "done" {
				t.Error("the step did not run")
			}
			must(t, d.client.Delete(t.Context(), sbx))
			must(t, d.client.Delete(t.Context(), img))
			d.gone(sbx)
			d.gone(img)
			if left := d.leftovers(); len(left) != 0 {
				t.Errorf("left over: %+v", left)
			}
		})
	}
}

func TestInstallerOfAnotherContent(t *testing.T) {
	d := host(t, fake.Options{})
	d.start()
	img := installedImage(d, "installed")
	img.Spec.Source.ISO.SHA256 = strings.Repeat("0", 64)
	d.create(passwordSecret(), img)
	until(d, img, "stalled", func(img *v1.GoldenImage) bool {
		c := condition(img, v1.ConditionStalled)
		return c.Status == metav1.ConditionTrue && strings.Contains(c.Message, "has sha256") && d.machines() == 0
	})
}
