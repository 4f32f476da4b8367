package apiserver

import (
	"cmp"
	"maps"
	"strconv"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// podReadOnly says what to do in place of writing a Pod.
const podReadOnly = "pods only show sandboxes and cannot be written: change or delete the Sandbox of the same name (kubectl delete sandbox NAME)"

// guestContainer is the name of the only container of a Pod: the machine.
const guestContainer = "guest"

// podView shows Sandboxes as core/v1 Pods, so that clients which know how to
// exec, attach, forward ports and read logs of pods only find some. Nothing of
// it is stored: for owner references and for garbage collection there are no
// pods.
func podView(of *resource) *view {
	return &view{of: of, to: showPod}
}

// showPod turns a stored Sandbox into the Pod that shows it, in place. One that
// cannot be read, which the schema does not let into the store, shows no more
// than its name.
func showPod(obj map[string]any) {
	sbx := &v1.Sandbox{}
	pod := &corev1.Pod{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj, sbx); err == nil {
		pod = podOf(sbx)
	}
	shown, err := runtime.DefaultUnstructuredConverter.ToUnstructured(pod)
	if err != nil { // a Pod always converts
		shown = map[string]any{}
	}
	clear(obj)
	maps.Copy(obj, shown)
	obj["apiVersion"], obj["kind"] = "v1", "Pod"
}

// podOf is the Pod that shows a Sandbox.
func podOf(sbx *v1.Sandbox) *corev1.Pod {
	yes := true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: sbx.Name, Namespace: sbx.Namespace, UID: podUID(sbx.UID), ResourceVersion: sbx.ResourceVersion,
			CreationTimestamp: sbx.CreationTimestamp, DeletionTimestamp: sbx.DeletionTimestamp,
			DeletionGracePeriodSeconds: sbx.DeletionGracePeriodSeconds,
			Generation:                 sbx.Generation, Labels: sbx.Labels, Annotations: maps.Clone(sbx.Annotations),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1.GroupVersion.String(), Kind: "Sandbox", Name: sbx.Name, UID: sbx.UID,
				Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		Spec: podSpec(sbx),
	}
	// With it, `kubectl apply --prune` would take the pod for something that was
	// applied and try to delete it.
	delete(pod.Annotations, corev1.LastAppliedConfigAnnotation)
	pod.Status = podStatus(sbx)
	return pod
}

// podSpace is the name space of the UIDs of pods.
var podSpace = uuid.MustParse("7a1d3c52-52b3-5f0a-9d26-6a8d1c0d5e11")

// podUID derives a Pod's UID from its Sandbox's: an owner and what it owns must
// not have the same.
func podUID(id types.UID) types.UID {
	return types.UID(uuid.NewSHA1(podSpace, []byte(id)).String())
}

func podSpec(sbx *v1.Sandbox) corev1.PodSpec {
	guest := corev1.Container{
		Name: guestContainer, Image: sbx.Spec.Image, Stdin: true, TTY: true,
		ImagePullPolicy: corev1.PullNever,
	}
	limits := corev1.ResourceList{}
	if n := sbx.Spec.CPUs; n > 0 {
		limits[corev1.ResourceCPU] = *quantity.NewQuantity(int64(n), quantity.DecimalSI)
	}
	if m := sbx.Spec.Memory; m != nil {
		limits[corev1.ResourceMemory] = *m
	}
	if len(limits) > 0 {
		guest.Resources = corev1.ResourceRequirements{Limits: limits, Requests: limits}
	}
	for _, f := range sbx.Status.PortForwards {
		guest.Ports = append(guest.Ports, corev1.ContainerPort{
			Name: f.Name, ContainerPort: f.GuestPort, HostPort: f.HostPort, HostIP: f.HostAddress,
			Protocol: corev1.Protocol(cmp.Or(f.Protocol, v1.ProtocolTCP)),
		})
	}
	return corev1.PodSpec{
		Containers: []corev1.Container{guest}, NodeName: string(sbx.Status.Provider),
		// Every server of Kubernetes sets it, and kubectl debug falls over a Pod without.
		SecurityContext: &corev1.PodSecurityContext{},
		Hostname: sbx.Spec.CloudInit.Hostname, RestartPolicy: corev1.RestartPolicy(sbx.Spec.RestartPolicy),
	}
}

func podStatus(sbx *v1.Sandbox) corev1.PodStatus {
	s := corev1.PodStatus{
		Phase: podPhase(sbx), QOSClass: corev1.PodQOSGuaranteed,
		ObservedGeneration: sbx.Status.ObservedGeneration,
		Conditions:         podConditions(sbx),
	}
	if c := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionReady); c != nil && c.Status != metav1.ConditionTrue {
		s.Reason, s.Message = c.Reason, c.Message
	}
	if c := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionProvisioned); c != nil && c.Status == metav1.ConditionTrue {
		s.StartTime = &c.LastTransitionTime
	}
	for _, a := range sbx.Status.Addresses {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: a.IP})
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
	s.ContainerStatuses = []corev1.ContainerStatus{guestStatus(sbx, s.Phase)}
	return s
}

// podPhase: kubectl forwards ports of a Running pod only, and runs nothing in
// one that has Succeeded or Failed.
//
//	Stalled                            Failed
//	PoweredOn                          Running
//	turned off, by whomever, or stopping   Succeeded; Failed after a crash
//	else                               Pending
func podPhase(sbx *v1.Sandbox) corev1.PodPhase {
	powered := meta.FindStatusCondition(sbx.Status.Conditions, v1.ConditionPoweredOn)
	switch {
	case meta.IsStatusConditionTrue(sbx.Status.Conditions, v1.ConditionPoweredOn):
		return corev1.PodRunning
	case meta.IsStatusConditionTrue(sbx.Status.Conditions, v1.ConditionStalled):
		return corev1.PodFailed
	case powered == nil:
		return corev1.PodPending
	}
	switch powered.Reason {
	case v1.ReasonStopped, v1.ReasonExited:
		return corev1.PodSucceeded
	case v1.ReasonCrashed:
		return corev1.PodFailed
	default:
		return corev1.PodPending
	}
}

// podConditions are those of pods that say the same as the Sandbox's.
func podConditions(sbx *v1.Sandbox) []corev1.PodCondition {
	var list []corev1.PodCondition
	for _, pair := range []struct {
		from string
		to   corev1.PodConditionType
	}{
		{v1.ConditionAdmitted, corev1.PodScheduled},
		{v1.ConditionProvisioned, corev1.PodInitialized},
		{v1.ConditionReady, corev1.ContainersReady},
		{v1.ConditionReady, corev1.PodReady},
	} {
		c := meta.FindStatusCondition(sbx.Status.Conditions, pair.from)
		if c == nil {
			continue
		}
		list = append(list, corev1.PodCondition{
			Type: pair.to, Status: corev1.ConditionStatus(c.Status), Reason: c.Reason, Message: c.Message,
			LastTransitionTime: c.LastTransitionTime, ObservedGeneration: c.ObservedGeneration,
		})
	}
	return list
}

// guestStatus is the state of the machine as that of a container.
func guestStatus(sbx *v1.Sandbox, phase corev1.PodPhase) corev1.ContainerStatus {
	started := phase == corev1.PodRunning
	s := corev1.ContainerStatus{
		Name: guestContainer, Image: sbx.Spec.Image, ImageID: sbx.Status.ImageRevision,
		RestartCount: sbx.Status.Restarts, Started: &started,
		Ready: started && meta.IsStatusConditionTrue(sbx.Status.Conditions, v1.ConditionReady),
	}
	if sbx.Status.MachineID != "" {
		s.ContainerID = string(sbx.Status.Provider) + "://" + sbx.Status.MachineID
	}
	reason, message, since := "Pending", "", metav1.Time{}
	for _, t := range []string{v1.ConditionPoweredOn, v1.ConditionReady} {
		if c := meta.FindStatusCondition(sbx.Status.Conditions, t); c != nil && c.Status != metav1.ConditionTrue {
			reason, message, since = c.Reason, c.Message, c.LastTransitionTime
			break
		}
	}
	switch phase {
	case corev1.PodRunning:
		s.State.Running = &corev1.ContainerStateRunning{}
		if at := sbx.Status.StartedAt; at != nil {
			s.State.Running.StartedAt = *at
		}
	case corev1.PodSucceeded, corev1.PodFailed:
		s.State.Terminated = &corev1.ContainerStateTerminated{Reason: reason, Message: message, FinishedAt: since}
		if phase == corev1.PodFailed {
			s.State.Terminated.ExitCode = 1
		}
		if at := sbx.Status.StartedAt; at != nil {
			s.State.Terminated.StartedAt = *at
		}
	default:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: message}
	}
	return s
}

// podColumns are those that kubectl shows of pods.
func podColumns() []column {
	of := func(name, kind, description string, priority int32, cell func(*corev1.Pod) any) column {
		return column{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: name, Type: kind, Description: description, Priority: priority},
			cell: func(obj map[string]any, _ time.Time) any {
				pod := &corev1.Pod{}
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj, pod); err != nil {
					return nil
				}
				return cell(pod)
			},
		}
	}
	none := func(*corev1.Pod) any { return "<none>" }
	return []column{
		nameColumn(),
		of("Ready", "string", "Whether the guest is ready: 1/1 or 0/1.", 0, func(p *corev1.Pod) any {
			if c := guestOf(p); c != nil && c.Ready {
				return "1/1"
			}
			return "0/1"
		}),
		of("Status", "string", "What the machine does.", 0, func(p *corev1.Pod) any { return podState(p) }),
		of("Restarts", "string", "How often it was started again.", 0, func(p *corev1.Pod) any {
			if c := guestOf(p); c != nil {
				return strconv.Itoa(int(c.RestartCount))
			}
			return "0"
		}),
		ageColumn(),
		of("IP", "string", "The first address of the guest.", 1, func(p *corev1.Pod) any { return cmp.Or(p.Status.PodIP, "<none>") }),
		of("Node", "string", "The hypervisor that runs it.", 1, func(p *corev1.Pod) any { return cmp.Or(p.Spec.NodeName, "<none>") }),
		of("Nominated Node", "string", "Always none.", 1, none),
		of("Readiness Gates", "string", "Always none.", 1, none),
	}
}

func guestOf(pod *corev1.Pod) *corev1.ContainerStatus {
	if len(pod.Status.ContainerStatuses) == 0 {
		return nil
	}
	return &pod.Status.ContainerStatuses[0]
}

// podState is what kubectl shows as a pod's STATUS.
func podState(pod *corev1.Pod) string {
	c := guestOf(pod)
	switch {
	case pod.DeletionTimestamp != nil:
		return "Terminating"
	case c != nil && c.State.Waiting != nil && c.State.Waiting.Reason != "":
		return c.State.Waiting.Reason
	case c != nil && c.State.Terminated != nil && c.State.Terminated.Reason != "":
		return c.State.Terminated.Reason
	default:
		return string(pod.Status.Phase)
	}
}
