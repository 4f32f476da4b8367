package goldenimage

import (
	"fmt"
	"slices"
	"strings"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// action is what a reconciliation does.
type action string

const (
	actImport action = "Import"
	actBuild  action = "Build"
	actSettle action = "Settle"
	actHold   action = "Hold"
	actRemove action = "Remove"
)

// observed is what the decision looks at.
type observed struct {
	// Deleting: the image has a deletion timestamp.
	Deleting bool
	// Sealed: the wanted revision exists.
	Sealed bool
	// Machine: the wanted revision is built in a machine.
	Machine bool
	// Base: the revision that the machine starts from exists, if it needs one.
	Base bool
	// Clones counts the sandboxes that name the image, by the revision they
	// were cloned from; those without a machine yet count under "".
	Clones map[string]int32
}

func next(o observed) action {
	switch {
	case o.Deleting && total(o.Clones) > 0:
		return actHold
	case o.Deleting:
		return actRemove
	case o.Sealed:
		return actSettle
	case o.Machine && o.Base:
		return actBuild
	default:
		return actImport
	}
}

// obsolete lists the held revisions that are neither wanted nor used. While a
// sandbox has no machine yet it may still be cloned from any of them. The base of
// a built revision is wanted too: a changed step then needs no other import.
func obsolete(held []v1.ImageRevision, wanted []string, clones map[string]int32) []string {
	if clones[""] > 0 {
		return nil
	}
	var names []string
	for _, r := range held {
		if !slices.Contains(wanted, r.Revision) && clones[r.Revision] == 0 {
			names = append(names, r.Revision)
		}
	}
	return names
}

// countClones counts the sandboxes that use each revision of an image.
func countClones(sandboxes []v1.Sandbox) map[string]int32 {
	clones := make(map[string]int32)
	for i := range sandboxes {
		clones[sandboxes[i].Status.ImageRevision]++
	}
	return clones
}

func total(clones map[string]int32) int32 {
	var n int32
	for _, c := range clones {
		n += c
	}
	return n
}

// holding are those of the sandboxes that name an image by which it stays while it is
// being deleted: those that were made from it, and as long as it is sealed those that were
// there before and are going to be. One that came afterwards, which an API server that is
// not ours lets in, waits for another image of that name.
func holding(img *v1.GoldenImage, sealed bool, sandboxes []v1.Sandbox) []v1.Sandbox {
	var held []v1.Sandbox
	for i := range sandboxes {
		sbx := &sandboxes[i]
		made := sbx.Status.MachineID != "" || sbx.Status.ImageRevision != ""
		if made || sealed && !img.DeletionTimestamp.Before(&sbx.CreationTimestamp) {
			held = append(held, *sbx)
		}
	}
	return held
}

// users names the sandboxes, at most a few, for a message.
func users(sandboxes []v1.Sandbox) []string {
	const most = 5
	names := make([]string, 0, len(sandboxes))
	for i := range sandboxes {
		names = append(names, sandboxes[i].Namespace+"/"+sandboxes[i].Name)
	}
	slices.Sort(names)
	if len(names) > most {
		names = append(names[:most], "…")
	}
	return names
}

// usedBy says who uses an image, for a message.
func usedBy(sandboxes []v1.Sandbox) string {
	noun := "sandboxes"
	if len(sandboxes) == 1 {
		noun = "sandbox"
	}
	return fmt.Sprintf("%d %s (%s)", len(sandboxes), noun, strings.Join(users(sandboxes), ", "))
}
