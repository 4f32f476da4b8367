package sandbox

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

func TestExpiry(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	after := func(d time.Duration) *metav1.Time { t := metav1.NewTime(created.Add(d)); return &t }
	span := func(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
	for name, tc := range map[string]struct {
		lifecycle v1.Lifecycle
		used      *metav1.Time
		want      *metav1.Time
		why       string
	}{
		"no limit":             {},
		"no limit, and used":   {used: after(time.Minute)},
		"ttl":                  {lifecycle: v1.Lifecycle{TTL: span(time.Hour)}, want: after(time.Hour), why: "its time to live of 1h0m0s is over"},
		"ttl is not prolonged": {lifecycle: v1.Lifecycle{TTL: span(time.Hour)}, used: after(30 * time.Minute), want: after(time.Hour), why: "its time to live of 1h0m0s is over"},
		"never used":           {lifecycle: v1.Lifecycle{IdleTimeout: span(time.Minute)}, want: after(time.Minute), why: "nobody has used it for 1m0s"},
		"used":                 {lifecycle: v1.Lifecycle{IdleTimeout: span(time.Minute)}, used: after(time.Hour), want: after(61 * time.Minute), why: "nobody has used it for 1m0s"},
		"idle before ttl":      {lifecycle: v1.Lifecycle{TTL: span(time.Hour), IdleTimeout: span(time.Minute)}, want: after(time.Minute), why: "nobody has used it for 1m0s"},
		"ttl before idle":      {lifecycle: v1.Lifecycle{TTL: span(time.Hour), IdleTimeout: span(time.Minute)}, used: after(time.Hour - time.Second), want: after(time.Hour), why: "its time to live of 1h0m0s is over"},
		"a clock set back":     {lifecycle: v1.Lifecycle{IdleTimeout: span(time.Minute)}, used: after(-time.Hour), want: after(time.Minute), why: "nobody has used it for 1m0s"},
	} {
		sbx := &v1.Sandbox{}
		sbx.CreationTimestamp, sbx.Spec.Lifecycle, sbx.Status.LastUsedAt = metav1.NewTime(created), tc.lifecycle, tc.used
		at, why := expiry(sbx)
		if !at.Equal(tc.want) || why != tc.why {
			t.Errorf("%s: expires at %v because %q, want %v because %q", name, at, why, tc.want, tc.why)
		}
		if tc.want != nil && (expired(sbx, tc.want.Add(-time.Second)) || !expired(sbx, tc.want.Time)) {
			t.Errorf("%s: expired before its time, or not then", name)
		}
	}
}
