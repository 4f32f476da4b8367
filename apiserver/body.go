package apiserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"sandboxd.dev/sandboxd/brief"
)

const (
	// maxBody is the largest request body in bytes, as in Kubernetes.
	maxBody = 3 << 20
	// bodyTimeout bounds how long a client may take to send a body.
	bodyTimeout = time.Minute
)

// readBody reads a bounded body within a bounded time, once there is room for it.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, &http.MaxBytesError{Limit: maxBody} // before the client is told to go on
	}
	if err := s.roomForBody(w, r); err != nil {
		return nil, err
	}
	control := http.NewResponseController(w)
	// Not every writer has deadlines (a test's recorder has none); the size is
	// bounded all the same.
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		return body, nil
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, err
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("the body could not be read: %v", err))
}

// codecs decodes what is not an object of a definition: protobuf bodies of
// core kinds, and DeleteOptions.
type codecs struct {
	protobuf *protobuf.Serializer
}

func newCodecs() (*codecs, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, coordinationv1.AddToScheme, eventsv1.AddToScheme, autoscalingv1.AddToScheme, metav1.AddMetaToScheme,
		rbacv1.AddToScheme, authorizationv1.AddToScheme, authenticationv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	return &codecs{protobuf: protobuf.NewSerializer(scheme, scheme)}, nil
}

// parseBody reads a body of JSON, YAML or protobuf into a tree. problems are
// what strict decoding finds besides unknown fields: duplicate keys.
func (c *codecs) parseBody(media string, body []byte) (tree map[string]any, problems []error, err error) {
	switch media {
	case mediaJSON:
		return parseJSON(body)
	case mediaYAML:
		return parseYAML(body)
	case mediaProtobuf:
		obj, _, err := c.protobuf.Decode(body, nil, nil)
		if err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("the protobuf body cannot be decoded: %v", err))
		}
		tree, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
		if err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("the protobuf body cannot be decoded: %v", err))
		}
		apiVersion, kind := obj.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
		tree["apiVersion"], tree["kind"] = apiVersion, kind
		return tree, nil, nil
	}
	return nil, nil, unsupportedMedia(media, mediaJSON, mediaYAML, mediaProtobuf)
}

func parseJSON(body []byte) (map[string]any, []error, error) {
	var tree map[string]any
	problems, err := kjson.UnmarshalStrict(body, &tree, kjson.DisallowDuplicateFields)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("the body is not a JSON object: %v", err))
	}
	if tree == nil {
		return nil, nil, apierrors.NewBadRequest("the body is empty where a JSON object was expected")
	}
	return tree, problems, nil
}

func parseYAML(body []byte) (map[string]any, []error, error) {
	// Clients mostly send JSON, which is YAML too and parsed several times as fast.
	if bytes.HasPrefix(body, []byte("{")) {
		if tree, problems, err := parseJSON(body); err == nil {
			return tree, problems, nil
		}
	}
	var problems []error
	asJSON, err := yaml.YAMLToJSONStrict(body)
	if err != nil {
		// The strict reading failed, perhaps for duplicate keys only.
		problems = append(problems, errors.New(strings.TrimPrefix(firstLine(err), "yaml: ")))
		if asJSON, err = yaml.YAMLToJSON(body); err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("the body is not valid YAML: %s", firstLine(err)))
		}
	}
	if len(asJSON) > maxBody {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the YAML body expands to more than %d bytes", maxBody))
	}
	tree, more, err := parseJSON(asJSON)
	return tree, append(problems, more...), err
}

// firstLine keeps multi-line messages of parsers to one sentence.
func firstLine(err error) string {
	lines := strings.Split(err.Error(), "\n")
	if len(lines) > 1 && strings.HasSuffix(lines[0], ":") {
		return lines[0] + " " + strings.TrimSpace(lines[1])
	}
	return lines[0]
}

// readMedia reads a request's body and the media type that it is in. A Content-Type
// that cannot be parsed is refused before the body is read.
func (s *Server) readMedia(w http.ResponseWriter, r *http.Request) (media string, body []byte, err error) {
	if media, err = bodyMedia(r); err != nil {
		return "", nil, err
	}
	body, err = s.readBody(w, r)
	return media, body, err
}

// readObject reads the object in a request's body, in the resource's own form,
// pruned to its schema. What strict validation objects to fails the request or
// becomes warnings, as the options say.
func (s *Server) readObject(w http.ResponseWriter, rq *request, o options) (*unstructured.Unstructured, error) {
	media, body, err := s.readMedia(w, rq.Request)
	if err != nil {
		return nil, err
	}
	tree, problems, err := s.codecs.parseBody(media, body)
	if err != nil {
		return nil, err
	}
	return admitTree(w, rq.resource, tree, nil, problems, o)
}

// admitTree makes an object of the resource out of a tree that a client sent.
// known is metadata that is known to be well-formed, or nil.
func admitTree(w http.ResponseWriter, r *resource, tree, known map[string]any, problems []error, o options) (*unstructured.Unstructured, error) {
	if err := checkKind(r, tree); err != nil {
		return nil, err
	}
	unknown, err := r.schema.coerce(tree, known)
	if err != nil {
		var fieldErr *field.Error
		if errors.As(err, &fieldErr) {
			return nil, apierrors.NewInvalid(r.gvk.GroupKind(), "", field.ErrorList{fieldErr})
		}
		return nil, apierrors.NewBadRequest(err.Error())
	}
	for _, path := range unknown {
		problems = append(problems, fmt.Errorf("unknown field %q", path))
	}
	if err := judge(w, problems, o.validation); err != nil {
		return nil, err
	}
	return &unstructured.Unstructured{Object: tree}, nil
}

// checkKind refuses an object of another kind than the endpoint's.
func checkKind(r *resource, tree map[string]any) error {
	apiVersion, kind := r.gvk.ToAPIVersionAndKind()
	gotVersion, _ := tree["apiVersion"].(string)
	gotKind, _ := tree["kind"].(string)
	if gotVersion != apiVersion || gotKind != kind {
		return apierrors.NewBadRequest(fmt.Sprintf("the body is a %s of %s where a %s of %s was expected",
			orWord(gotKind, "kindless object"), orWord(gotVersion, "no apiVersion"), kind, apiVersion))
	}
	return nil
}

func orWord(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// maxProblems bounds how many problems a client is told of at once, and
// maxProblem how long each may be, in bytes: field names come from the client.
const (
	maxProblems = 16
	maxProblem  = 512
)

// judge acts on what strict decoding found.
func judge(w http.ResponseWriter, problems []error, validation string) error {
	if len(problems) == 0 || validation == metav1.FieldValidationIgnore {
		return nil
	}
	messages := make([]string, 0, maxProblems+1)
	for i, problem := range problems {
		if i == maxProblems {
			messages = append(messages, fmt.Sprintf("and %d more", len(problems)-maxProblems))
			break
		}
		messages = append(messages, printable(problem.Error()))
	}
	if validation == metav1.FieldValidationStrict {
		return apierrors.NewBadRequest("strict decoding error: " + strings.Join(messages, ", "))
	}
	for _, message := range messages {
		if header, err := utilnet.NewWarningHeader(299, "-", message); err == nil {
			w.Header().Add("Warning", header)
		}
	}
	return nil
}

// printable makes a text fit for a header and a terminal.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	return brief.Text(text, maxProblem)
}
