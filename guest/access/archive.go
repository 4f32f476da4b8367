package access

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sandboxd.dev/sandboxd/providers"
)

const (
	// tarTimeout bounds one run of tar in the guest.
	tarTimeout = time.Hour
	// cleanTimeout bounds the removal of the temporary file.
	cleanTimeout = 30 * time.Second
	// maxTarOutput bounds what tar says, in bytes.
	maxTarOutput = 16 << 10
)

// Archive copies a directory of the guest: GET streams what is in it as a tar
// archive, PUT unpacks the body, a tar archive, into it and makes it first if
// needed. The guest needs a tar, and room for the archive in /tmp.
func (h *Handlers) Archive(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
	h.enter(w, r, parent, func(m machine) error {
		dir, err := parsePath(r)
		if err != nil {
			return err
		}
		// A name nobody in the guest can foresee.
		file := "/tmp/.sandboxd-" + uuid.NewString() + ".tar"
		defer h.removeFile(r.Context(), m, file)
		if r.Method == http.MethodPut {
			return unpack(w, r, m, file, dir)
		}
		if err := runTar(r.Context(), m, "pack "+dir, "tar", "-cf", file, "-C", dir, "."); err != nil {
			return err
		}
		out := newStream(w, r, "application/x-tar")
		_, err = m.ReadFile(r.Context(), file, out)
		return h.finish(out, m, err)
	})
}

func unpack(w http.ResponseWriter, r *http.Request, m machine, file, dir string) error {
	if err := m.WriteFile(r.Context(), file, 0o600, bodyOf(r)); err != nil {
		return err
	}
	if err := runTar(r.Context(), m, "make "+dir, "mkdir", "-p", dir); err != nil {
		return err
	}
	if err := runTar(r.Context(), m, "unpack into "+dir, "tar", "-xf", file, "-C", dir); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// runTar runs a program of the guest that is done with an archive.
func runTar(ctx context.Context, m machine, what string, command ...string) error {
	var said bytes.Buffer
	result, err := m.Exec(ctx, providers.ExecRequest{
		Command: command, Stderr: &said, Timeout: tarTimeout, MaxOutput: maxTarOutput,
	})
	switch {
	case providers.KindOf(err) == providers.ErrNotFound:
		return providers.Errorf(providers.ErrUnsupported, m.object,
			"the guest has no program %s, which copying a directory needs", command[0])
	case err != nil:
		return err
	case result.TimedOut:
		return tarError(m, what, fmt.Sprintf("it took longer than %v", tarTimeout))
	case result.ExitCode != 0:
		return tarError(m, what, said.String())
	}
	return nil
}

// removeFile removes the temporary file, whatever became of the request.
func (h *Handlers) removeFile(ctx context.Context, m machine, file string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	_, err := m.Exec(ctx, providers.ExecRequest{Command: []string{"rm", "-f", file}, Timeout: cleanTimeout})
	if err != nil {
		h.o.Logger.Info("A temporary file was left in a guest", "sandbox", m.object, "file", file, "error", err.Error())
	}
}
