// Package controller wires the reconcilers to a Kubernetes API and to the
// providers.
//
//	API server ──watch──▶ cache ──▶ queue ──▶ reconcilers ──▶ providers
//	                                  ▲ ▲                         │
//	                  backoff on errors │                         │
//	                                    └──── provider events ◀───┘
//
// It knows the API only through a rest.Config: the embedded API server's, or
// that of a real Kubernetes cluster with the CRDs of api/v1 installed.
package controller
