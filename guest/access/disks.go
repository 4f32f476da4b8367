package access

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/disk/change"
	"sandboxd.dev/sandboxd/disk/worker"
	"sandboxd.dev/sandboxd/guest/wire"
	"sandboxd.dev/sandboxd/providers"
)

// diskStall is how long a client may take nothing of what is read of a disk:
// meanwhile the machine can be neither started nor deleted, and what was written to
// export an image takes its room.
const diskStall = 5 * time.Minute

// maxCopy bounds the files that are copied out of a disk together, in bytes.
const maxCopy = 64 << 30

// Disks reads disks for Handlers, and for whoever else needs them.
type Disks struct {
	Reader *worker.Reader
	// Snapshot and Image find objects by name.
	Snapshot func(ctx context.Context, namespace, name string) (*v1.SandboxSnapshot, error)
	Image    func(ctx context.Context, name string) (*v1.GoldenImage, error)
}

// DiskDiff answers with the differences between two states of a disk, one JSON
// object per line, or with a unified diff of one text file.
func (h *Handlers) DiskDiff(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
	h.serve(w, parent, func(m machine) error {
		q := r.URL.Query()
		touched, err := parseBool(q, wire.ParamTouched)
		if err != nil {
			return err
		}
		content := q.Get(wire.ParamContent)
		if content != "" && !path.IsAbs(content) {
			return badRequestf("path %q is not an absolute path in the guest", content)
		}
		from := q.Get(wire.ParamFrom)
		if from == "" {
			from = v1.SnapshotGolden
		}
		base, to, err := h.o.Disks.both(r.Context(), m, from, q.Get(wire.ParamTo))
		if err != nil {
			return err
		}
		defer to.Close()
		defer base.Close()
		if content != "" {
			out := newStream(w, r, "text/plain; charset=utf-8")
			out.stall = diskStall
			return h.finish(out, m, diskError(m.object, h.o.Disks.Reader.Content(r.Context(), files(base), files(to), content, out)))
		}
		out := newStream(w, r, "application/x-ndjson")
		out.stall = diskStall
		err = h.o.Disks.Reader.Diff(r.Context(), files(base), files(to), touched, func(l change.Line) error {
			raw, err := json.Marshal(l)
			if err == nil {
				_, err = out.Write(append(raw, '\n'))
			}
			return err
		})
		return h.finish(out, m, diskError(m.object, err))
	})
}

// DiskArchive streams a file or a directory of a disk as a tar archive.
func (h *Handlers) DiskArchive(w http.ResponseWriter, r *http.Request, parent *unstructured.Unstructured) {
	h.serve(w, parent, func(m machine) error {
		name, err := parsePath(r)
		if err != nil {
			return err
		}
		disk, err := h.o.Disks.open(r.Context(), m, r.URL.Query().Get(wire.ParamSnapshot))
		if err != nil {
			return err
		}
		defer disk.Close()
		out := newStream(w, r, "application/x-tar", wire.TrailerMode)
		out.stall = diskStall
		err = h.o.Disks.Reader.Archive(r.Context(), files(disk), name, maxCopy, func(head worker.Header) error {
			w.Header().Set(wire.HeaderDir, strconv.FormatBool(head.Dir))
			return nil
		}, out)
		return h.finish(out, m, diskError(m.object, err))
	})
}

// bothPatience is how long the second of two disks is waited for at first.
const bothPatience = 5 * time.Second

// both opens two states of a machine's disk. The machine comes before its image: who
// changes both takes them in this order. One thing may hold both still, and somebody
// who is about to change it come between the two: then neither of us would go on, so
// the first is let go of, for that one to have its turn.
func (d *Disks) both(ctx context.Context, m machine, from, to string) (base, top providers.Disk, err error) {
	for patience := bothPatience; ; patience *= 2 {
		if top, err = d.open(ctx, m, to); err != nil {
			return base, top, err
		}
		bounded, cancel := context.WithTimeout(ctx, patience)
		base, err = d.open(bounded, m, from)
		late := bounded.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil {
			return base, top, nil
		}
		top.Close()
		if !late {
			return base, top, err
		}
	}
}

// open opens a state of a machine's disk: that of a snapshot, what it began as
// ("golden"), or, for an empty name, as it is now.
func (d *Disks) open(ctx context.Context, m machine, state string) (providers.Disk, error) {
	ref, err := d.refOf(ctx, m, state)
	if err != nil {
		return providers.Disk{}, err
	}
	disk, err := m.provider.OpenDisk(ctx, ref)
	if state == "" && errors.Is(err, providers.ErrBusy) {
		err = providers.Errorf(providers.ErrBusy, m.object, "it runs, and its disk changes meanwhile: stop or suspend it first, or name a snapshot of it")
	}
	return disk, err
}

func (d *Disks) refOf(ctx context.Context, m machine, state string) (providers.DiskRef, error) {
	switch {
	case state == "":
		return providers.DiskRef{Machine: m.id}, nil
	case state != v1.SnapshotGolden:
		return d.snapshot(ctx, m, state, m.sbx.Name)
	case m.sbx.Spec.FromSnapshot != "":
		return d.snapshot(ctx, m, m.sbx.Spec.FromSnapshot, "")
	}
	img, err := d.Image(ctx, m.sbx.Spec.Image)
	if err != nil {
		return providers.DiskRef{}, providers.Errorf(providers.ErrNotFound, m.object, "image %q that it was cloned from: %v", m.sbx.Spec.Image, err)
	}
	return providers.DiskRef{Image: providers.ImageRef{UID: img.UID, Revision: m.sbx.Status.ImageRevision}}, nil
}

// snapshot finds a snapshot, which must be of the sandbox if one is named.
func (d *Disks) snapshot(ctx context.Context, m machine, name, of string) (providers.DiskRef, error) {
	snap, err := d.Snapshot(ctx, m.sbx.Namespace, name)
	switch {
	case err != nil:
		return providers.DiskRef{}, providers.Errorf(providers.ErrNotFound, m.object, "snapshot %q: %v", name, err)
	case of != "" && (snap.Spec.Sandbox != of || snap.Status.MachineID != "" && snap.Status.MachineID != string(m.id)):
		return providers.DiskRef{}, providers.Errorf(providers.ErrInvalid, m.object, "snapshot %q is of another sandbox", name)
	case snap.Status.TakenAt == nil || snap.Status.MachineID == "":
		return providers.DiskRef{}, providers.Errorf(providers.ErrUnavailable, m.object, "snapshot %q has not been taken yet", name)
	}
	return providers.DiskRef{Machine: types.UID(snap.Status.MachineID), Snapshot: snap.UID}, nil
}

// files hands the files of a disk to the process that reads it.
func files(d providers.Disk) worker.Disk {
	out := worker.Disk{Size: d.Size}
	for _, l := range d.Layers {
		out.Layers = append(out.Layers, worker.File{File: l.File, Format: string(l.Format)})
	}
	return out
}

// diskError gives what a disk's reader says the kind that providers have for it.
func diskError(object string, err error) error {
	var e *worker.Error
	if !errors.As(err, &e) {
		return err
	}
	kind := providers.ErrUnavailable
	switch {
	case errors.Is(err, worker.ErrNotFound):
		kind = providers.ErrNotFound
	case errors.Is(err, worker.ErrUnsupported):
		kind = providers.ErrUnsupported
	case errors.Is(err, worker.ErrTooLarge), errors.Is(err, worker.ErrCorrupt), errors.Is(err, worker.ErrExhausted):
		kind = providers.ErrInvalid
	}
	return providers.Errorf(kind, object, "its disk: %s", strings.TrimSpace(e.Text))
}

// Pack writes a file or a directory of a disk to w as a tar stream, for whoever is
// not a client. The files in it have at most maxBytes together.
func (d *Disks) Pack(ctx context.Context, p providers.Provider, ref providers.DiskRef, name string, maxBytes int64, w io.Writer) error {
	disk, err := p.OpenDisk(ctx, ref)
	if err != nil {
		return err
	}
	defer disk.Close()
	return diskError(ref.String(), d.Reader.Archive(ctx, files(disk), name, maxBytes, func(worker.Header) error { return nil }, w))
}
