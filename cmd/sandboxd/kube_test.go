package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// kubeCmd asks the daemon as a kubeconfig says, and prints the answer's code and
// body:
//
//	kube FILE[@OTHER] METHOD PATH [BODY]    with the address of another kubeconfig
func kubeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 || len(args) > 4 {
		ts.Fatalf("usage: kube FILE[@OTHER] METHOD PATH [BODY]")
	}
	file, other, _ := strings.Cut(args[0], "@")
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(ts.ReadFile(file)))
	ts.Check(err)
	if other != "" {
		elsewhere, err := clientcmd.RESTConfigFromKubeConfig([]byte(ts.ReadFile(other)))
		ts.Check(err)
		config.Host = elsewhere.Host
	}
	client, err := rest.HTTPClientFor(config)
	ts.Check(err)
	client.Timeout = patience
	body := ""
	if len(args) == 4 {
		body = ts.ReadFile(args[3])
	}
	request, err := http.NewRequest(args[1], config.Host+args[2], strings.NewReader(body))
	ts.Check(err)
	if body != "" {
		request.Header.Set("Content-Type", "application/yaml")
	}
	response, err := client.Do(request)
	if err != nil {
		_, err = fmt.Fprintf(ts.Stdout(), "failed\n%v\n", err)
		ts.Check(err)
		return
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	ts.Check(err)
	_, err = fmt.Fprintf(ts.Stdout(), "%d\n%s", response.StatusCode, raw)
	ts.Check(err)
}
