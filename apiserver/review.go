package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// reviewVerbs are those of kinds that are questions: they are asked by creating
// one, which is answered and not kept.
var reviewVerbs = []string{"create"}

// answer tells what a question's status is.
type answer func(ctx context.Context, s *Server, rq *request, u *unstructured.Unstructured) (any, error)

// reviewStrategies are those of the questions.
func reviewStrategies() map[string]strategy {
	all := map[string]strategy{}
	for kind, ask := range map[string]answer{
		"selfsubjectaccessreviews": answerSelfAccess, "subjectaccessreviews": answerAccess,
		"localsubjectaccessreviews": answerAccess, "selfsubjectrulesreviews": answerRules,
	} {
		all[kind+"."+authorizationv1.GroupName] = strategy{answer: ask, ungenerated: true}
	}
	all["selfsubjectreviews."+authenticationv1.GroupName] = strategy{answer: answerWho, ungenerated: true}
	all["tokenreviews."+authenticationv1.GroupName] = strategy{answer: answerToken, ungenerated: true}
	return all
}

// storedOnly leaves out the questions, of which nothing is kept.
func storedOnly(resources []*resource) []*resource {
	return slices.DeleteFunc(slices.Clone(resources), func(r *resource) bool { return r.answer != nil })
}

// review answers a question.
func (s *Server) review(w http.ResponseWriter, rq *request, u *unstructured.Unstructured) error {
	status, err := rq.resource.answer(rq.Context(), s, rq, u)
	if err != nil {
		return err
	}
	if u.Object["status"], err = runtime.DefaultUnstructuredConverter.ToUnstructured(status); err != nil {
		return err
	}
	return writeJSON(w, rq.accept, http.StatusCreated, u.Object)
}

// invalidReview refuses a question that cannot be answered.
func invalidReview(rq *request, e *field.Error) error {
	return apierrors.NewInvalid(rq.resource.gvk.GroupKind(), "", field.ErrorList{e})
}

func answerSelfAccess(ctx context.Context, s *Server, rq *request, u *unstructured.Unstructured) (any, error) {
	question, err := typed[authorizationv1.SelfSubjectAccessReview](u)
	if err != nil {
		return nil, err
	}
	return s.answerAccess(ctx, rq, rq.user, question.Spec.ResourceAttributes, question.Spec.NonResourceAttributes)
}

func answerAccess(ctx context.Context, s *Server, rq *request, u *unstructured.Unstructured) (any, error) {
	question, err := typed[authorizationv1.SubjectAccessReview](u)
	if err != nil {
		return nil, err
	}
	spec := field.NewPath("spec")
	if question.Spec.User == "" && len(question.Spec.Groups) == 0 {
		return nil, invalidReview(rq, field.Invalid(spec.Child("user"), "", "at least one of user or group must be specified"))
	}
	if rq.namespace != "" {
		if about := question.Spec.ResourceAttributes; about == nil || about.Namespace != rq.namespace {
			return nil, invalidReview(rq, field.Invalid(spec.Child("resourceAttributes", "namespace"), "", fmt.Sprintf("must be the namespace of the request, %s", rq.namespace)))
		}
	}
	return s.answerAccess(ctx, rq, User{Name: question.Spec.User, Groups: question.Spec.Groups},
		question.Spec.ResourceAttributes, question.Spec.NonResourceAttributes)
}

func (s *Server) answerAccess(ctx context.Context, rq *request, u User, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (any, error) {
	if (resource == nil) == (path == nil) {
		return nil, invalidReview(rq, field.Invalid(field.NewPath("spec"), "",
			"exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	var a Action
	if resource != nil {
		a = Action{
			Verb: resource.Verb, Group: resource.Group, Version: resource.Version, Resource: resource.Resource,
			Subresource: resource.Subresource, Namespace: resource.Namespace, Name: resource.Name,
		}
	} else {
		a = Action{Verb: path.Verb, Path: path.Path}
	}
	status := authorizationv1.SubjectAccessReviewStatus{Allowed: true}
	if s.authorizer != nil {
		var err error
		status.Allowed, status.Reason, err = s.authorizer.Authorize(ctx, u, a)
		if err != nil {
			status.EvaluationError = err.Error()
		}
	}
	return &status, nil
}

func answerRules(ctx context.Context, s *Server, rq *request, u *unstructured.Unstructured) (any, error) {
	question, err := typed[authorizationv1.SelfSubjectRulesReview](u)
	if err != nil {
		return nil, err
	}
	if question.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	rules, err := s.rulesOf(ctx, rq.user, question.Spec.Namespace)
	if err != nil {
		status.Incomplete, status.EvaluationError = true, err.Error()
	}
	for _, rule := range rules {
		if len(rule.NonResourceURLs) > 0 {
			status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
			continue
		}
		status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
		})
	}
	return &status, nil
}

func answerWho(_ context.Context, _ *Server, rq *request, _ *unstructured.Unstructured) (any, error) {
	return &authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(rq.user)}, nil
}

func userInfo(u User) authenticationv1.UserInfo {
	return authenticationv1.UserInfo{Username: u.Name, Groups: slices.Clone(u.Groups)}
}

func answerToken(ctx context.Context, s *Server, rq *request, u *unstructured.Unstructured) (any, error) {
	question, err := typed[authenticationv1.TokenReview](u)
	if err != nil {
		return nil, err
	}
	token := question.Spec.Token
	unstructured.RemoveNestedField(u.Object, "spec", "token") // it is not repeated
	if token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	status := &authenticationv1.TokenReviewStatus{}
	if s.authenticator == nil {
		return status, nil
	}
	login, err := s.authenticator.AuthenticateToken(ctx, token)
	if err != nil {
		return status, nil // why is not told
	}
	status.Authenticated, status.User = true, userInfo(login.known())
	status.Audiences = question.Spec.Audiences
	return status, nil
}

// allStrategies are those of all kinds that the server itself defines.
func allStrategies() map[string]strategy {
	all := strategies()
	maps.Copy(all, roleStrategies())
	maps.Copy(all, reviewStrategies())
	return all
}
