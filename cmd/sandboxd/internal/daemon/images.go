package daemon

import (
	"path/filepath"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/guest/access"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/export"
)

// imageSubresources serve the disks of images.
func imageSubresources(o Options, set *providers.Set) ([]apiserver.Subresource, error) {
	exporter, err := export.New(filepath.Join(o.Config.DataDir, exportDir), "qemu-img")
	if err != nil {
		return nil, err
	}
	images := &access.Images{Providers: set, Exporter: exporter, Native: export.FormatOf}
	var subs []apiserver.Subresource
	for _, e := range images.Endpoints() {
		subs = append(subs, apiserver.Subresource{
			Resource: v1.Resource("goldenimages"), Name: e.Name, Methods: e.Methods, Stream: e.Stream, Handler: e.Serve,
		})
	}
	return subs, nil
}
