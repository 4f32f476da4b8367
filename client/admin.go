package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// The daemon's own endpoints, below the root of its API. A Kubernetes API server
// has none of them.
const (
	// BackupPath has a copy of the store: GET.
	BackupPath = "/admin/backup"
	// GarbagePath has a Garbage: GET what the collector would do now, POST what it
	// did.
	GarbagePath = "/admin/gc"
	// ManifestsPath has a Manifests: GET what came of the last look at the directory,
	// POST has it looked at now.
	ManifestsPath = "/admin/manifests"
)

// Garbage is what the garbage collector finds on the hypervisors and in their
// data folders.
type Garbage struct {
	Items []GarbageItem `json:"items"`
	// Errors say what could not be listed or removed.
	Errors []string `json:"errors,omitempty"`
}

// GarbageItem is one thing.
type GarbageItem struct {
	Provider string `json:"provider"`
	Kind     string `json:"kind"`
	// Resource describes it for people: a name or a path.
	Resource string `json:"resource"`
	// Owners are the UIDs of the objects that it belongs to.
	Owners []string `json:"owners,omitempty"`
	// Verdict is Keep, Suspect, Remove or Report.
	Verdict string `json:"verdict"`
	// Reason of the verdict, for people.
	Reason string `json:"reason"`
	// Since is when it was first seen without an object.
	Since *time.Time `json:"since,omitempty"`
}

// Backup copies the daemon's store to w while it is in use. A copy that broke off
// is an error.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	_, _, err := c.get(ctx, c.base.JoinPath(BackupPath).String(), w)
	return err
}

// PreviewGarbage tells what the garbage collector would do now.
func (c *Client) PreviewGarbage(ctx context.Context) (Garbage, error) {
	var body bytes.Buffer
	if _, _, err := c.get(ctx, c.base.JoinPath(GarbagePath).String(), &body); err != nil {
		return Garbage{}, err
	}
	return readGarbage(&body)
}

// CollectGarbage has the garbage collector sweep now: what is due is removed, and
// what is left over is noticed.
func (c *Client) CollectGarbage(ctx context.Context) (Garbage, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath(GarbagePath).String(), nil)
	if err != nil {
		return Garbage{}, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Garbage{}, transportError(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return Garbage{}, responseError(response)
	}
	return readGarbage(response.Body)
}

func readGarbage(r io.Reader) (Garbage, error) {
	var g Garbage
	if err := json.NewDecoder(r).Decode(&g); err != nil {
		return Garbage{}, fmt.Errorf("the daemon's answer cannot be read: %w", err)
	}
	return g, nil
}

// Err joins the errors; nil when there are none.
func (g Garbage) Err() error {
	if len(g.Errors) == 0 {
		return nil
	}
	return errors.New(strings.Join(g.Errors, "; "))
}
