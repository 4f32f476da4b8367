package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// InCluster is named instead of a kubeconfig's file by a daemon that runs in a Pod.
const InCluster = "in-cluster"

// Connect reads how the API server is reached. It does not ask it anything. The
// server must be one that proves who it is: whatever answered in its place could have
// every machine removed.
func Connect(kubeconfig, userAgent string) (*rest.Config, error) {
	config, err := read(kubeconfig)
	if err != nil {
		return nil, err
	}
	if err := checkServer(kubeconfig, config); err != nil {
		return nil, err
	}
	config.UserAgent = userAgent
	config.QPS = -1 // the server has its own fairness
	config.WarningHandler = rest.NoWarnings{}
	return config, nil
}

func read(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == InCluster {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %s: this process does not run in a Pod with a service account (%w): name a kubeconfig's file", InCluster, err)
		}
		return config, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	var path *fs.PathError
	switch {
	case errors.As(err, &path):
		return nil, fmt.Errorf("kubeconfig %s cannot be read: %w", kubeconfig, path.Err)
	case err != nil:
		return nil, fmt.Errorf("kubeconfig %s cannot be used: %w: see that its current-context names a cluster and a user", kubeconfig, err)
	}
	return config, nil
}

func checkServer(kubeconfig string, config *rest.Config) error {
	if config.Insecure {
		return fmt.Errorf("kubeconfig %s: insecure-skip-tls-verify would have the daemon obey whoever answers: name the cluster's certificate-authority", kubeconfig)
	}
	base, err := url.Parse(config.Host)
	if err != nil || base.Host == "" {
		return fmt.Errorf("kubeconfig %s: its server %q is not an address", kubeconfig, config.Host)
	}
	if ip := net.ParseIP(base.Hostname()); base.Scheme != "https" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("kubeconfig %s: its server %s is reached without TLS: use an https address", kubeconfig, config.Host)
	}
	return nil
}
