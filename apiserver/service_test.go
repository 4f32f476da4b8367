package apiserver_test

import "testing"

// TestServices: there are none, and clients that ask for them learn so.
func TestServices(t *testing.T) {
	a := newAPI(t)
	const services = "/api/v1/namespaces/default/services"
	if names := a.get(services + "?labelSelector=kubernetes.io/cluster-service").want(200).names(); len(names) != 0 {
		t.Errorf("there are %v", names)
	}
	a.do("POST", services, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"one"},"spec":{"ports":[{"port":80}]}}`).
		refused(405, "MethodNotAllowed", "there are no services here")
}
