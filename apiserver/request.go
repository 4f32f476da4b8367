package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sandboxd.dev/sandboxd/store"
)

// target is what the path of a resource request names.
//
//	/api/v1/…  or  /apis/GROUP/VERSION/…  followed by
//	  RESOURCE                             all of a kind, in all namespaces
//	  RESOURCE/NAME[/SUB]                  one cluster-scoped object
//	  namespaces/NS/RESOURCE[/NAME[/SUB]]  a namespace's objects, or one
type target struct {
	gv          schema.GroupVersion
	resource    string
	namespace   string
	name        string
	subresource string
}

// parseTarget reads the path segments behind the group version. It accepts only
// segments that can be part of a store key.
func parseTarget(gv schema.GroupVersion, segments []string) (target, bool) {
	for _, segment := range segments {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsAny(segment, "/%\x00") {
			return target{}, false
		}
	}
	t := target{gv: gv}
	// namespaces/NS/RESOURCE is in a namespace; namespaces/NS is the namespace,
	// and namespaces/NS/status and /finalize are its subresources.
	if len(segments) >= 3 && segments[0] == "namespaces" && (gv.Group != "" || segments[2] != "status" && segments[2] != "finalize") {
		t.namespace = segments[1]
		segments = segments[2:]
	}
	switch len(segments) {
	case 3:
		t.subresource = segments[2]
		fallthrough
	case 2:
		t.name = segments[1]
		fallthrough
	case 1:
		t.resource = segments[0]
		return t, true
	}
	return target{}, false
}

// request is one request for a resource, once it is known to make sense.
type request struct {
	*http.Request
	resource    *resource
	namespace   string
	name        string
	subresource string
	query       url.Values
	user        User
	accept      accept
}

// key is the store key of the object that the request names.
func (rq *request) key() store.Key {
	return store.Key{Resource: rq.resource.base().key, Namespace: rq.namespace, Name: rq.name}
}

// options are the query parameters that the writing verbs share.
type options struct {
	dryRun     bool
	manager    string // owner of the written fields
	force      bool
	validation string // what to do about fields the schema does not know
}

// writeOptions reads the options of a write. What may be in them, and the words
// in which they are refused, are those of Kubernetes.
func (rq *request) writeOptions() (options, error) {
	o := options{
		manager:    rq.query.Get("fieldManager"),
		validation: rq.query.Get("fieldValidation"),
	}
	var err error
	if o.force, err = queryBool(rq.query, "force"); err != nil {
		return o, err
	}
	dryRun := slices.DeleteFunc(slices.Clone(rq.query["dryRun"]), func(value string) bool { return value == "" })
	o.dryRun = len(dryRun) > 0
	var errs field.ErrorList
	var kind string
	switch rq.Method {
	case http.MethodPost:
		kind = "CreateOptions"
		errs = validation.ValidateCreateOptions(&metav1.CreateOptions{DryRun: dryRun, FieldManager: o.manager, FieldValidation: o.validation})
	case http.MethodPatch:
		kind = "PatchOptions"
		media, err := bodyMedia(rq.Request)
		if err != nil {
			return o, err
		}
		patch := &metav1.PatchOptions{DryRun: dryRun, FieldManager: o.manager, FieldValidation: o.validation}
		if rq.query.Has("force") {
			patch.Force = &o.force
		}
		errs = validation.ValidatePatchOptions(patch, types.PatchType(media))
	default:
		kind = "UpdateOptions"
		errs = validation.ValidateUpdateOptions(&metav1.UpdateOptions{DryRun: dryRun, FieldManager: o.manager, FieldValidation: o.validation})
	}
	if len(errs) > 0 {
		return o, apierrors.NewInvalid(metav1.SchemeGroupVersion.WithKind(kind).GroupKind(), "", errs)
	}
	if o.validation == "" {
		o.validation = metav1.FieldValidationWarn
	}
	return o, nil
}

// maxManager is the longest name of a field owner, as in Kubernetes.
const maxManager = 128

// managerOr is the field owner of a write that need not name one: the client's
// program, from its user agent.
func (o options) managerOr(r *http.Request) string {
	if o.manager != "" {
		return o.manager
	}
	agent, _, _ := strings.Cut(r.UserAgent(), "/")
	if len(agent) > maxManager {
		agent = agent[:maxManager]
	}
	agent = strings.ToValidUTF8(agent, "")
	if agent == "" {
		return "unknown"
	}
	return agent
}

func queryBool(query url.Values, name string) (bool, error) {
	switch text := query.Get(name); strings.ToLower(text) {
	case "", "false", "0":
		// A parameter without a value, as in ?watch, means true.
		return text == "" && query.Has(name), nil
	case "true", "1":
		return true, nil
	default:
		return false, apierrors.NewBadRequest(fmt.Sprintf("%s %q is neither true nor false", name, text))
	}
}

// queryRevision reads a resource version; 0 when there is none.
func queryRevision(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	revision, err := strconv.ParseInt(text, 10, 64)
	if err != nil || revision < 0 {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("resourceVersion %q is not a version of this server", text))
	}
	return revision, nil
}
