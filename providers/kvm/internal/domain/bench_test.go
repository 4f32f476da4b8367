package domain

import (
	"testing"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// BenchmarkDrift is what GetMachine does beyond what it did for the machine's state:
// of one that is on, its definition is parsed, too.
func BenchmarkDrift(b *testing.B) {
	s := spec(v1.NetworkNAT)
	text := build(b, s)
	live, err := Parse(text)
	if err != nil {
		b.Fatal(err)
	}
	want := live.Record.Spec()
	want.Disk, want.Seed, want.Console = s.Disk, s.Seed, s.Console
	b.Run("off", func(b *testing.B) {
		for b.Loop() {
			Drift(Sight{Want: want, Defined: &live.Outline})
		}
	})
	b.Run("on", func(b *testing.B) {
		for b.Loop() {
			defined, err := Parse(text)
			if err != nil {
				b.Fatal(err)
			}
			Drift(Sight{Want: want, Live: &live.Outline, Defined: &defined.Outline})
		}
	})
}
