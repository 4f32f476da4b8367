package kubectl_test

import "fmt"

// stopped is a sandbox that does not run: after a moment nothing happens to it.
func stopped(name string) string {
	return sandbox(name, "", "powerState: Stopped")
}

// labelled is one with labels, as "{tier: front}".
func labelled(name, labels string) string {
	return sandbox(name, ", labels: "+labels, "powerState: Stopped")
}

// running is one that becomes ready.
func running(name string) string {
	return sandbox(name, "", "powerState: Running")
}

// sandbox is the document of one; metadata and spec say more about it.
func sandbox(name, metadata, spec string) string {
	return fmt.Sprintf("---\napiVersion: sandboxd.dev/v1\nkind: Sandbox\nmetadata: {name: %s%s}\nspec:\n  image: tiny\n  %s\n", name, metadata, spec)
}

// secret is the document of one with a single value.
func secret(name, key, value string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s}\nstringData: {%s: %q}\n", name, key, value)
}

// namespace is the document of one.
func namespace(name string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", name)
}
