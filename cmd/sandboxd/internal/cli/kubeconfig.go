package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"sandboxd.dev/sandboxd/client"
)

// kubeconfigFlags say what kubeconfig is wanted.
type kubeconfigFlags struct {
	user, role, server, output string
	groups, namespaces         []string
	token, certificate         bool
	duration                   time.Duration
}

func (a *app) kubeconfig() *cobra.Command {
	var f kubeconfigFlags
	cmd := a.connected(&cobra.Command{
		Use:   "kubeconfig",
		Short: "Write a kubeconfig for kubectl and other clients",
		Long: `Have the daemon give somebody a credential, and write a kubeconfig with it that
needs no other file. The daemon must listen on TCP (serve --listen).

The role is what the user may do from now on, in the place of the role that he
was given so before:
  admin      everything; in namespaces, everything there
  user       sandboxes, snapshots, secrets, events, and what is inside of
             sandboxes, in namespaces (default: the namespace default); golden
             images and namespaces can be read
  read-only  read everything but secrets and the inside of sandboxes; in
             namespaces, there only
Roles are RBAC objects of the API, so "kubectl auth can-i --list" tells what
they allow, and finer ones may be written by hand. Without --user and --role it
is for who calls it, as admin.

The credential is a client certificate, whose key never leaves this command, or
with --token a bearer token. "sandboxd users" lists and revokes them.`,
		GroupID: groupAccess,
		Example: examples(`
# For yourself
sandboxd kubeconfig -o ~/.kube/sandboxd && kubectl --kubeconfig ~/.kube/sandboxd get sandboxes -A

# For somebody who works in two namespaces, for a month
sandboxd kubeconfig --user alice --role user --namespace team-a --namespace trials --duration 720h -o alice.kubeconfig

# For a GitOps tool on another host
sandboxd kubeconfig --user flux --role admin --token --server https://sandboxes.example.org:6443`),
		Args: noArgs,
	})
	flags := cmd.Flags()
	flags.StringVar(&f.user, "user", "", "Name of the user (default: who calls this)")
	flags.StringSliceVar(&f.groups, "group", nil, "Group of the user, for bindings of your own; may be repeated")
	flags.StringVar(&f.role, "role", "", "Role of the user: admin, user or read-only (default: admin without --user, else none is given or taken)")
	flags.StringSliceVarP(&f.namespaces, "namespace", "n", nil, "Namespace that the role is for; may be repeated; made if it does not exist")
	flags.StringVar(&f.server, "server", "", "URL that clients reach the daemon by (default: its first address)")
	flags.BoolVar(&f.token, "token", false, "Give a bearer token")
	flags.BoolVar(&f.certificate, "client-certificate", false, "Give a client certificate (default)")
	flags.DurationVar(&f.duration, "duration", 365*24*time.Hour, "How long the credential is valid")
	flags.StringVarP(&f.output, "output", "o", "-", "File to write, for its owner alone, with its folder; - for standard output")
	offer(cmd, "role", client.RoleAdmin, client.RoleUser, client.RoleReadOnly)
	_ = cmd.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runKubeconfig(cmd.Context(), f) }
	return cmd
}

func (a *app) runKubeconfig(ctx context.Context, f kubeconfigFlags) error {
	if err := f.complete(); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	access, err := c.Authorities(ctx)
	if err != nil {
		return err
	}
	server, err := f.serverURL(access.Addresses)
	if err != nil {
		return err
	}
	wish := client.UserWish{
		User: f.user, Groups: f.groups, Role: f.role, Namespaces: f.namespaces, Seconds: int64(f.duration / time.Second),
	}
	var key []byte
	if !f.token {
		if key, wish.CertificateRequest, err = newKey(); err != nil {
			return err
		}
	}
	write, abandon, err := a.openOutput(f.output)
	if err != nil {
		return err
	}
	defer abandon()
	grant, err := c.GrantUser(ctx, wish)
	if err != nil {
		return err
	}
	raw, err := clientcmd.Write(kubeconfigOf(grant, key, server, f.namespaces))
	if err != nil {
		return err
	}
	if err := write(raw); err != nil {
		return err
	}
	for _, namespace := range grant.CreatedNamespaces {
		fmt.Fprintf(a.Err, "namespace %s was made\n", namespace)
	}
	if f.output != "-" {
		fmt.Fprintf(a.Err, "%s: %s %s of user %s for %s, valid until %s\n", f.output, strings.ToLower(grant.Kind), grant.ID, grant.User, server, grant.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// complete checks the flags, and fills in who calls.
func (f *kubeconfigFlags) complete() error {
	if f.token && f.certificate {
		return errors.New("--token and --client-certificate exclude one another: say one")
	}
	if f.user == "" {
		account, err := user.Current()
		if err != nil {
			return fmt.Errorf("your name is not known: %w: say --user", err)
		}
		f.user = account.Username
		if f.role == "" {
			f.role = client.RoleAdmin
		}
	}
	if f.role != "" && !slices.Contains([]string{client.RoleAdmin, client.RoleUser, client.RoleReadOnly}, f.role) {
		return fmt.Errorf("--role %q is not one of admin, user and read-only", f.role)
	}
	if f.role == "" && len(f.namespaces) > 0 {
		return errors.New("--namespace says where a role is for: say --role too")
	}
	if f.role == client.RoleUser && len(f.namespaces) == 0 {
		f.namespaces = []string{metav1.NamespaceDefault}
	}
	if f.duration < time.Minute {
		return fmt.Errorf("--duration %v is less than a minute", f.duration)
	}
	return nil
}

// serverURL is where clients find the daemon.
func (f *kubeconfigFlags) serverURL(addresses []string) (string, error) {
	if f.server != "" {
		u, err := url.Parse(f.server)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return "", fmt.Errorf("--server %q is not a URL such as https://127.0.0.1:6443", f.server)
		}
		return f.server, nil
	}
	if len(addresses) == 0 {
		return "", errors.New("the daemon does not listen on TCP, so no kubeconfig leads to it: start it with --listen 127.0.0.1:6443, or say --server if something else leads there")
	}
	address, err := netip.ParseAddrPort(addresses[0])
	if err != nil {
		return "", fmt.Errorf("the daemon listens on %q, which is no address: %w", addresses[0], err)
	}
	host := address.Addr().Unmap()
	if host.IsUnspecified() {
		host = netip.MustParseAddr("127.0.0.1")
	}
	return "https://" + net.JoinHostPort(host.String(), fmt.Sprint(address.Port())), nil
}

// newKey makes a key and a request for its certificate, both PEM.
func newKey() (key []byte, request string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, "", err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		return nil, "", err
	}
	key = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})), nil
}

// kubeconfigOf is the file's content.
func kubeconfigOf(grant client.UserGrant, key []byte, server string, namespaces []string) clientcmdapi.Config {
	const name = "sandboxd"
	config := *clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: []byte(grant.Authorities)}
	config.AuthInfos[grant.User] = &clientcmdapi.AuthInfo{
		Token: grant.Token, ClientCertificateData: []byte(grant.Certificate), ClientKeyData: key,
	}
	ctx := &clientcmdapi.Context{Cluster: name, AuthInfo: grant.User}
	if len(namespaces) > 0 {
		ctx.Namespace = namespaces[0]
	}
	config.Contexts[name] = ctx
	config.CurrentContext = name
	return config
}

// openOutput makes sure that a file can be written before anything is given
// away. It is in its place once it is whole.
func (a *app) openOutput(path string) (write func([]byte) error, abandon func(), err error) {
	if path == "-" {
		return func(b []byte) error { _, err := a.Out.Write(b); return err }, func() {}, nil
	}
	if path, err = outputFile(path); err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil { // as kubectl makes ~/.kube
		return nil, nil, fmt.Errorf("%s cannot be written: %w", path, pathReason(err))
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".kubeconfig-") // for the owner alone
	if err != nil {
		return nil, nil, fmt.Errorf("%s cannot be written: %w", path, pathReason(err))
	}
	abandon = func() {
		_ = f.Close()
		_ = os.Remove(f.Name()) // gone when it was renamed
	}
	return func(b []byte) error {
		_, err := f.Write(b)
		if err = errors.Join(err, f.Close()); err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			return fmt.Errorf("%s cannot be written: %w", path, pathReason(err))
		}
		return nil
	}, abandon, nil
}
