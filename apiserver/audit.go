package apiserver

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// Auditor keeps a log of what was asked for.
type Auditor interface {
	// Ready fails when nothing can be recorded now. What would have to be
	// recorded is refused then, except for deletions: they make room.
	Ready() error
	// Record keeps a line of JSON, an Event of audit.k8s.io/v1.
	Record(line []byte)
}

// Audit says what is recorded.
type Audit struct {
	// Log keeps the lines; nil means that nothing is recorded.
	Log Auditor
	// Commands: the words of commands are recorded behind the first too, and their
	// variables. They may hold secrets.
	Commands bool
}

const (
	// annotationPrefix is that of our own annotations of audit events.
	annotationPrefix = "audit.sandboxd.dev/"
	// maxAuditText bounds what of a URI and a user agent is recorded.
	maxAuditText = 4096
)

// carriers are subresources that carry what is inside of guests and images; to
// read by them is recorded too.
var carriers = append([]string{"archive", "disk", "diskarchive", "diskdiff", "files"}, connectors...)

// questionGroups have kinds that are asked by creating them, which changes
// nothing.
var questionGroups = []string{"authorization.k8s.io", "authentication.k8s.io"}

// backupPath is an endpoint that hands out everything there is.
const backupPath = "/admin/backup"

// audited tells whether something is recorded: what may change something,
// reaches into a guest, or takes everything away.
func audited(a Action) bool {
	if a.Resource == "" {
		return a.mutates() || strings.TrimSuffix(a.Path, "/") == backupPath
	}
	if slices.Contains(questionGroups, a.Group) {
		return false
	}
	return a.mutates() || slices.Contains(carriers, a.Subresource)
}

// trail is the record of one request.
type trail struct {
	mu    sync.Mutex
	event auditv1.Event
	log   Auditor
}

// Annotate adds to the audit record of a request, if there is one.
func Annotate(ctx context.Context, key, value string) {
	t, _ := ctx.Value(trailKey).(*trail)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.event.Annotations == nil {
		t.event.Annotations = map[string]string{}
	}
	t.event.Annotations[annotationPrefix+key] = printable(value)
}

// auditObject records which object a creation made.
func auditObject(ctx context.Context, u *unstructured.Unstructured) {
	t, _ := ctx.Value(trailKey).(*trail)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.event.ObjectRef != nil && t.event.Verb == "create" && t.event.ObjectRef.Subresource == "" {
		t.event.ObjectRef.Name, t.event.ObjectRef.UID = u.GetName(), u.GetUID()
	}
}

// beginAudit begins the record of a request; nil when it is not recorded. What
// the daemon itself does in the background is not: it is what was asked for.
func (s *Server) beginAudit(w http.ResponseWriter, r *http.Request, a Action) (*http.Request, *trail) {
	id := uuid.NewString()
	w.Header().Set(auditv1.HeaderAuditID, id)
	user := UserFrom(r.Context())
	impersonator, acting := impersonatorFrom(r.Context())
	if s.audit.Log == nil || user.Name == loopbackUser.Name && !acting || !audited(a) {
		return r, nil
	}
	t := &trail{log: s.audit.Log, event: auditv1.Event{
		TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: auditv1.SchemeGroupVersion.String()},
		Level:    auditv1.LevelMetadata, AuditID: types.UID(id), Stage: auditv1.StageRequestReceived,
		RequestURI: s.auditURI(r), Verb: a.Verb, User: userInfo(user),
		UserAgent:                shortened(r.UserAgent()),
		RequestReceivedTimestamp: metav1.NewMicroTime(time.Now()),
	}}
	if acting {
		as := userInfo(user)
		t.event.User, t.event.ImpersonatedUser = userInfo(impersonator), &as
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		t.event.SourceIPs = []string{host}
	}
	if a.Resource != "" {
		t.event.ObjectRef = &auditv1.ObjectReference{
			Resource: a.Resource, Subresource: a.Subresource, Namespace: a.Namespace, Name: a.Name,
			APIGroup: a.Group, APIVersion: a.Version,
		}
	}
	return r.WithContext(context.WithValue(r.Context(), trailKey, t)), t
}

// auditURI is a request's URI as it is recorded: without the words of a command
// behind the first, and without its variables.
func (s *Server) auditURI(r *http.Request) string {
	if s.audit.Commands {
		return shortened(r.URL.RequestURI())
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return shortened(r.URL.EscapedPath())
	}
	query = maps.Clone(query)
	if words := query["command"]; len(words) > 1 {
		query["command"] = words[:1]
	}
	query.Del("env")
	u := url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: query.Encode()}
	return shortened(u.RequestURI())
}

func shortened(text string) string {
	if len(text) > maxAuditText {
		text = text[:maxAuditText] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}

// ready refuses what could not be recorded.
func (t *trail) ready() error {
	if t == nil || t.event.Verb == "delete" || t.event.Verb == "deletecollection" {
		return nil
	}
	err := t.log.Ready()
	if err == nil {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: reasonCapacity,
		Message: err.Error() + ": nothing is changed that cannot be recorded, except for deletions: make room, or set another audit.file",
	}}
}

// begun records that something begins that may last: reaching into a guest.
func (t *trail) begun(a Action) {
	if t != nil && a.connects() {
		t.record(auditv1.StageRequestReceived, nil)
	}
}

// end records the answer.
func (t *trail) end(code int, denied bool) {
	if t == nil {
		return
	}
	decision := "allow"
	if denied {
		decision = "forbid"
	}
	t.mu.Lock()
	annotations := maps.Clone(t.event.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations["authorization.k8s.io/decision"] = decision
	t.event.Annotations = annotations
	t.mu.Unlock()
	status := &metav1.Status{Code: int32(code)} //nolint:gosec // an HTTP status
	if code >= http.StatusBadRequest {
		status.Status = metav1.StatusFailure
	}
	t.record(auditv1.StageResponseComplete, status)
}

func (t *trail) record(stage auditv1.Stage, status *metav1.Status) {
	t.mu.Lock()
	event := t.event
	event.Stage, event.ResponseStatus, event.StageTimestamp = stage, status, metav1.NewMicroTime(time.Now())
	raw, err := json.Marshal(event)
	t.mu.Unlock()
	if err != nil { // an event always marshals
		panic(err)
	}
	t.log.Record(raw)
}
