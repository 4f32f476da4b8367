// Package fault makes things go wrong between a provider and its caller, at the
// points that package intercept has: Death and Flaky are hooks that are made
// already, others are a few lines in a test.
package fault

import "sandboxd.dev/sandboxd/providers/intercept"

// When says on which side of a call a point lies.
type When = intercept.When

// The sides of a call.
const (
	Before = intercept.Before
	After  = intercept.After
)

// Point is one side of a call, where something may go wrong.
type Point = intercept.Point

// Hook decides what happens at a point.
type Hook = intercept.Hook

// Wrap and Chain are those of package intercept.
var (
	Wrap  = intercept.Wrap
	Chain = intercept.Chain
)
