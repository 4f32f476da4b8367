package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Manifests is what became of the directory that the daemon applies all the time.
type Manifests struct {
	// Directory, and the value of the label sandboxd.dev/manifests that objects
	// applied from it have.
	Directory string `json:"directory"`
	ID        string `json:"id"`
	// Revision is the commit, when the directory is in a git checkout.
	Revision string `json:"revision,omitempty"`
	// Problem says why the directory cannot be read.
	Problem string `json:"problem,omitempty"`
	// CheckedAt is when it was looked at last, and SucceededAt when that last left
	// nothing to be desired.
	CheckedAt   *time.Time `json:"checkedAt,omitempty"`
	SucceededAt *time.Time `json:"succeededAt,omitempty"`
	// Objects in the files, and how many of them are as they say.
	Objects int             `json:"objects"`
	Settled int             `json:"settled"`
	Files   []ManifestFile  `json:"files"`
	Pruning ManifestPruning `json:"pruning"`
	// Waiting are objects that cannot be applied or deleted yet.
	Waiting []ManifestWaiting `json:"waiting,omitempty"`
	// Errors that are about no file that there is.
	Errors []string `json:"errors,omitempty"`
	// Notes say what was passed over.
	Notes []string `json:"notes,omitempty"`
	// Failing counts what is not as it should be.
	Failing int `json:"failing"`
}

// ManifestFile is one file.
type ManifestFile struct {
	Path    string   `json:"path"`
	Objects int      `json:"objects"`
	Errors  []string `json:"errors,omitempty"`
}

// ManifestPruning says what becomes of objects that left the directory.
type ManifestPruning struct {
	Enabled bool `json:"enabled"`
	// Held says why Count objects are not deleted; Until is when they are if nothing
	// changes.
	Held  string     `json:"held,omitempty"`
	Count int        `json:"count,omitempty"`
	Until *time.Time `json:"until,omitempty"`
	// Kept are protected by the annotation sandboxd.dev/prune: Disabled, or never
	// deleted by the API, as the namespace default.
	Kept []string `json:"kept,omitempty"`
}

// ManifestWaiting is an object that waits, and what for.
type ManifestWaiting struct {
	Object string `json:"object"`
	Reason string `json:"reason"`
}

// Manifests tells what came of the last look at the directory.
func (c *Client) Manifests(ctx context.Context) (Manifests, error) {
	return c.manifests(ctx, http.MethodGet)
}

// SyncManifests has the directory looked at and applied now, and tells what came of
// it.
func (c *Client) SyncManifests(ctx context.Context) (Manifests, error) {
	return c.manifests(ctx, http.MethodPost)
}

func (c *Client) manifests(ctx context.Context, method string) (Manifests, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(ManifestsPath).String(), nil)
	if err != nil {
		return Manifests{}, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Manifests{}, transportError(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return Manifests{}, responseError(response)
	}
	var body bytes.Buffer
	var m Manifests
	if _, err := body.ReadFrom(response.Body); err != nil {
		return Manifests{}, transportError(err)
	}
	if err := json.Unmarshal(body.Bytes(), &m); err != nil {
		return Manifests{}, fmt.Errorf("the daemon's answer cannot be read: %w", err)
	}
	return m, nil
}
