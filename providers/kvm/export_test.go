//go:build linux

package kvm

// OnStep makes calls announce each of their changes before it is made; nil ends
// that. The hook may end the goroutine by runtime.Goexit.
func (p *Provider) OnStep(hook func()) {
	if hook == nil {
		p.steps.hook.Store(nil)
		return
	}
	p.steps.hook.Store(&hook)
}
