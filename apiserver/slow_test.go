package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/apiserver"
)

// A write that takes longer to judge than an answer may take to send is
// answered all the same: the admission of an image may read all of its source.
func TestSlowAdmissionIsAnswered(t *testing.T) {
	const limit = 50 * time.Millisecond
	s := newServer(t, func(o *apiserver.Options) {
		o.Admission = []apiserver.Admission{admission(func(context.Context, apiserver.Attributes) error {
			time.Sleep(4 * limit)
			return nil
		})}
	})
	server := httptest.NewUnstartedServer(s.Handler())
	server.Config.WriteTimeout = limit
	server.Start()
	defer server.Close()
	body, err := json.Marshal(sandbox("slow"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Post(server.URL+sandboxes, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatalf("not answered: %v", err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusCreated {
		t.Errorf("got %s, %v: %s", response.Status, err, answer)
	}
}
