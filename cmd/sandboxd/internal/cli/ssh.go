package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/client"
)

// defaultUser is whom an image's guest is entered as that says nothing else.
const defaultUser = "root"

// sshFlags say what is wanted of ssh.
type sshFlags struct {
	user       string
	identities []string
	options    []string
	port       int32
	tty        int
}

func (a *app) ssh() *cobra.Command {
	var f sshFlags
	cmd := &cobra.Command{
		Use:   "ssh [USER@]SANDBOX [flags] [-- COMMAND [ARGUMENT…]]",
		Short: "Log in to a sandbox by ssh",
		Long: `Run this host's ssh with a sandbox at the other end, for a shell or for a command.
The connection goes through the daemon as that of port-forward does: no port is
opened, and a sandbox without a network is reached too if an ssh server runs in it.
The guest must let one of your keys in: see spec.cloudInit.sshAuthorizedKeys.

Your ssh_config applies, to the host SANDBOX.NAMESPACE.sandboxd. Because nobody
trusts a guest, neither your agent nor X11 nor any port is forwarded to it, and no
connection is shared, whatever ssh_config says; -o may say otherwise. The words of
a command are joined by spaces and are read by the guest's shell, as ssh has it;
"sandboxd exec" passes them on as they are.

Exit codes: those of ssh, which are the command's own, and 255 when ssh failed; 1
when the sandbox could not be reached, and ssh was not run.`,
		Example: examples(`
sandboxd ssh web
sandboxd ssh web -i ~/.ssh/id_ed25519 -- uname -a
sandboxd ssh alice@team-a/web -t -- top
sandboxd ssh web -o ForwardAgent=yes -o LogLevel=VERBOSE`),
		GroupID: groupGuests,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, command, err := sshArgs(args, cmd.ArgsLenAtDash())
			if err != nil {
				return err
			}
			return a.runSSH(cmd, target, f, command)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.user, "login", "l", "", "User to log in as (default: the image's spec.guest.user)")
	flags.StringArrayVarP(&f.identities, "identity", "i", nil, "File of the private key to log in with, and with no other; may be repeated")
	flags.StringArrayVarP(&f.options, "option", "o", nil, "Option of ssh, as ssh_config has it, such as LogLevel=VERBOSE; may be repeated")
	flags.Int32VarP(&f.port, "port", "p", 0, "Port of the guest's ssh server (default: 22, or spec.readiness.port where the mode is ssh)")
	flags.CountVarP(&f.tty, "tty", "t", "Give the command a terminal; -tt: also if we have none")
	_ = cmd.MarkFlagFilename("identity")
	cmd.ValidArgsFunction = a.completeSandboxes()
	return a.namespaced(cmd)
}

// sshArgs splits the arguments into whom and what to log in to, and the command.
func sshArgs(args []string, dash int) (target string, command []string, err error) {
	switch {
	case len(args) == 0 || dash == 0:
		return "", nil, errors.New("say which sandbox: sandboxd ssh [USER@]SANDBOX")
	case dash == -1 && len(args) > 1:
		return "", nil, fmt.Errorf("put -- before the command: sandboxd ssh %s -- %s", args[0], strings.Join(args[1:], " "))
	case dash > 1:
		return "", nil, fmt.Errorf("one sandbox is wanted before --, not %d", dash)
	}
	return args[0], args[1:], nil
}

// sshTarget reads [USER@]SANDBOX.
func (a *app) sshTarget(text, login string) (key types.NamespacedName, user string, err error) {
	user = login
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		if user, text = text[:i], text[i+1:]; login != "" && login != user {
			return key, "", fmt.Errorf("%s@ and -l %s say two users: say one", user, login)
		}
		if user == "" {
			return key, "", errors.New("there is no user before the @: say USER@SANDBOX or SANDBOX")
		}
	}
	if user != "" && !isUser(user) {
		return key, "", fmt.Errorf("%q is not the name of a user", user)
	}
	if key, err = a.sandboxKey(text); err != nil {
		return key, "", err
	}
	if strings.HasPrefix(key.Name, "-") || strings.HasPrefix(key.Namespace, "-") { // ssh would take it for an option
		return key, "", fmt.Errorf("%q is not the name of a sandbox: use NAME or NAMESPACE/NAME", text)
	}
	return key, user, nil
}

// isUser tells whether a word can be a user in a guest, and neither an option of ssh nor
// something that a shell would read.
func isUser(word string) bool {
	return !strings.HasPrefix(word, "-") && !strings.HasSuffix(word, `\`) &&
		!strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("'`\";&<>|(){}$%", r) })
}

// runSSH becomes ssh: the terminal, the signals and the exit code are its own then.
func (a *app) runSSH(cmd *cobra.Command, target string, f sshFlags, command []string) error {
	key, user, err := a.sshTarget(target, f.user)
	if err != nil {
		return err
	}
	if f.port < 0 || f.port > 65535 {
		return fmt.Errorf("--port %d is not a port from 1 to 65535", f.port)
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	sbx := &v1.Sandbox{}
	if err := c.Get(cmd.Context(), key, sbx); err != nil {
		return err
	}
	if err := hasGuest(sbx); err != nil {
		return err
	}
	if user == "" {
		user = imageUser(cmd, c, sbx.Spec.Image)
	}
	if f.port == 0 {
		f.port = sshPort(sbx)
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return fmt.Errorf("the program ssh is not to be found on this host: install it (openssh-client), or use 'sandboxd exec -it %s -- sh'", key.Name)
	}
	own, err := os.Executable()
	if err != nil {
		return fmt.Errorf("the file of this program is not known, by which ssh connects: %w", err)
	}
	socket, err := filepath.Abs(a.socketPath())
	if err != nil {
		return fmt.Errorf("socket %s: %w", a.socketPath(), err)
	}
	known, err := knownHosts()
	if err != nil {
		return err
	}
	argv := sshCommand(session{
		program: own, socket: socket, key: key, host: hostKeyAlias(sbx), known: known,
		user: user, port: f.port, identities: f.identities, options: f.options, tty: f.tty, command: command,
	})
	if err := syscall.Exec(program, argv, os.Environ()); err != nil {
		return fmt.Errorf("%s cannot be run: %w", program, err)
	}
	return nil
}

// hasGuest tells why there is nobody to log in to, if that is known.
func hasGuest(sbx *v1.Sandbox) error {
	object := fmt.Sprintf("sandbox %s/%s", sbx.Namespace, sbx.Name)
	on := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionPoweredOn)
	switch {
	case sbx.DeletionTimestamp != nil:
		return fmt.Errorf("%s is being deleted", object)
	case sbx.Spec.PowerState == v1.PowerStopped && (on == nil || on.Status != "True"):
		return fmt.Errorf("%s is stopped: start it with 'sandboxd start %s -n %s'", object, sbx.Name, sbx.Namespace)
	case sbx.Spec.PowerState == v1.PowerSuspended && (on == nil || on.Status != "True"):
		return fmt.Errorf("%s is suspended: 'sandboxd resume %s -n %s' lets it go on", object, sbx.Name, sbx.Namespace)
	case sbx.Status.MachineID == "" || on != nil && on.Status == "False":
		why := ""
		if ready := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionReady); ready != nil && ready.Message != "" {
			why = " (" + strings.TrimSuffix(printable(ready.Message), ".") + ")"
		}
		return fmt.Errorf("%s is not running%s: 'sandboxd wait sandbox/%s -n %s --for=condition=Ready' waits until it is", object, why, sbx.Name, sbx.Namespace)
	}
	return nil
}

// imageUser is whom the manifest's keys let in. Who may not read the image, or comes
// after it is gone, gets what nearly all images have; -l says otherwise.
func imageUser(cmd *cobra.Command, c *client.Client, name string) string {
	image := &v1.GoldenImage{}
	if err := c.Get(cmd.Context(), types.NamespacedName{Name: name}, image); err != nil || image.Spec.Guest.User == "" {
		return defaultUser
	}
	return image.Spec.Guest.User
}

// sshPort is where the guest's ssh server is said to be.
func sshPort(sbx *v1.Sandbox) int32 {
	if r := sbx.Spec.Readiness; r.Mode == v1.ReadinessSSH && r.Port != 0 {
		return r.Port
	}
	return 22
}
