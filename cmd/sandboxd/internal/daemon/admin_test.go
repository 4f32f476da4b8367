package daemon

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/controller/metrics"
)

// TestAdminOfACluster: what a cluster does itself, and what a host that waits does not,
// is refused in words that reach the user: as a Status, of which clients print the
// message.
func TestAdminOfACluster(t *testing.T) {
	a := &admin{metrics: metrics.New(), log: logr.Discard(), waits: func() error { return errors.New("the cluster belongs to another host") }}
	var handler http.Handler
	for _, e := range a.endpoints() {
		if e.Path == "admin" {
			handler = e.Handler
		}
	}
	for request, want := range map[string]string{
		"GET " + client.UsersPath:      "make its users and their kubeconfigs there",
		"POST " + client.UsersPath:     "make its users and their kubeconfigs there",
		"DELETE " + client.UsersPath:   "make its users and their kubeconfigs there",
		"GET " + client.PKIPath:        "make its users and their kubeconfigs there",
		"POST " + client.PKIPath:       "make its users and their kubeconfigs there",
		"GET " + client.BackupPath:     "a cluster keeps the objects, so back up that",
		"GET " + client.ManifestsPath:  "a cluster keeps the objects, so apply them there",
		"POST " + client.ManifestsPath: "a cluster keeps the objects, so apply them there",
		"GET " + client.GarbagePath:    "nothing is collected on this host now: the cluster belongs to another host",
		"POST " + client.GarbagePath:   "nothing is collected on this host now: the cluster belongs to another host",
	} {
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		var status metav1.Status
		err := json.Unmarshal(w.Body.Bytes(), &status)
		if err != nil || status.Kind != "Status" || int(status.Code) != w.Code || w.Code < 400 || !strings.Contains(status.Message, want) {
			t.Errorf("%s: %d %s (%v), want %q", request, w.Code, w.Body, err, want)
		}
	}
}
