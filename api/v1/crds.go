package v1

import "embed"

// CRDs holds the generated CustomResourceDefinitions, one YAML file per kind,
// under crds/.
//
//go:embed crds/*.yaml
var CRDs embed.FS
