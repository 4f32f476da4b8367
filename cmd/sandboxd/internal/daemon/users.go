package daemon

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/guest/access"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/ssh"
)

// imageUsers looks up the guest users that images name, and their passwords.
type imageUsers struct {
	reader crclient.Reader
}

func (u *imageUsers) connect(config *rest.Config) error {
	c, err := client.New(client.Options{Config: config})
	u.reader = c
	return err
}

// of is the user that a sandbox's commands run as. The default, root, is left
// to the agent, which need not call its superuser so. Without its image the
// sandbox's user is unknown, and nothing is run as a greater one.
func (u *imageUsers) of(ctx context.Context, sbx *v1.Sandbox) (string, error) {
	img := &v1.GoldenImage{}
	if err := u.reader.Get(ctx, crclient.ObjectKey{Name: sbx.Spec.Image}, img); err != nil {
		return "", err
	}
	if img.Spec.Guest.User == "root" {
		return "", nil
	}
	return img.Spec.Guest.User, nil
}

// passwordKey is the key of a Secret under which a guest's password is.
const passwordKey = "password"

// LoginOf implements providers.Logins.
func (u *imageUsers) LoginOf(ctx context.Context, namespace, name string, id types.UID) (providers.Login, error) {
	object := fmt.Sprintf("sandbox %s/%s", namespace, name)
	if namespace == "" {
		object = "GoldenImage " + name
	}
	if u.reader == nil {
		return providers.Login{}, providers.Errorf(providers.ErrUnavailable, object, "the daemon is not up yet")
	}
	img, err := u.imageOf(ctx, object, namespace, name, id)
	if err != nil {
		return providers.Login{}, err
	}
	if img.Spec.Guest.PasswordSecretRef == nil {
		return providers.Login{}, providers.Errorf(providers.ErrUnsupported, object,
			"VirtualBox's guest control needs a password: set guest.passwordSecretRef of GoldenImage %s to a Secret with the key %q", img.Name, passwordKey)
	}
	password, err := u.passwordOf(ctx, object, img)
	return providers.Login{User: img.Spec.Guest.User, Password: password}, err
}

// imageOf is the image of the machine of a sandbox, or the one that a machine in no
// namespace builds.
func (u *imageUsers) imageOf(ctx context.Context, object, namespace, name string, id types.UID) (*v1.GoldenImage, error) {
	img, image := &v1.GoldenImage{}, name
	if namespace != "" {
		sbx := &v1.Sandbox{}
		if err := u.get(ctx, object, sbx, namespace, name); err != nil {
			return nil, err
		}
		if sbx.UID != id {
			return nil, errAnother(object)
		}
		image = sbx.Spec.Image
	}
	if err := u.get(ctx, object, img, "", image); err != nil {
		return nil, err
	}
	if namespace == "" && img.UID != id {
		return nil, errAnother(object)
	}
	return img, nil
}

func errAnother(object string) error {
	return providers.Errorf(providers.ErrNotFound, object, "it is another one by now")
}

// password is the password of an image's guest user; empty when it names none.
func (u *imageUsers) password(ctx context.Context, img *v1.GoldenImage) (string, error) {
	if img.Spec.Guest.PasswordSecretRef == nil {
		return "", nil
	}
	return u.passwordOf(ctx, "GoldenImage "+img.Name, img)
}

// passwordOf reads the password that an image names, for an object.
func (u *imageUsers) passwordOf(ctx context.Context, object string, img *v1.GoldenImage) (string, error) {
	ref := img.Spec.Guest.PasswordSecretRef
	secret := &corev1.Secret{}
	if err := u.get(ctx, object, secret, ref.Namespace, ref.Name); err != nil {
		return "", err
	}
	password, ok := secret.Data[passwordKey]
	if !ok {
		return "", providers.Errorf(providers.ErrNotFound, object, "Secret %s/%s has no key %q", ref.Namespace, ref.Name, passwordKey)
	}
	return string(password), nil
}

// without opens the way into the guest of a sandbox whose image has no agent; nil
// when it has one.
func (u *imageUsers) without(ssh *ssh.Guests) func(context.Context, providers.Provider, *v1.Sandbox) (access.Guest, func(), error) {
	return func(ctx context.Context, p providers.Provider, sbx *v1.Sandbox) (access.Guest, func(), error) {
		img := &v1.GoldenImage{}
		err := u.get(ctx, fmt.Sprintf("sandbox %s/%s", sbx.Namespace, sbx.Name), img, "", sbx.Spec.Image)
		if err != nil || img.Spec.Guest.Agent != v1.GuestAgentNone {
			return nil, nil, err
		}
		c := ssh.Open(p, sbx, img)
		return c, c.Close, nil
	}
}

// get reads an object; what goes wrong has a provider's kind and is about another
// object, whose login is asked for.
func (u *imageUsers) get(ctx context.Context, object string, into crclient.Object, namespace, name string) error {
	err := u.reader.Get(ctx, crclient.ObjectKey{Namespace: namespace, Name: name}, into)
	switch {
	case err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case apierrors.IsNotFound(err):
		return providers.Errorf(providers.ErrNotFound, object, "its guest's login cannot be found: %w", err)
	default:
		return providers.Errorf(providers.ErrUnavailable, object, "its guest's login cannot be read: %w", err)
	}
}
