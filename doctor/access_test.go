package doctor

import (
	"strings"
	"testing"
	"time"

	"sandboxd.dev/sandboxd/client"
	"sandboxd.dev/sandboxd/providers"
)

func TestJudgeAccess(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	soon := now.Add(day)
	listening := client.Access{Addresses: []string{"127.0.0.1:6443"}}
	for name, c := range map[string]struct {
		a    client.Authorities
		want providers.Severity
		text string
	}{
		"no TCP":      {client.Authorities{}, ok, "by its socket alone"},
		"well":        {client.Authorities{Access: listening, Expires: now.Add(3650 * day), ServingExpires: now.Add(80 * day)}, ok, "listens on 127.0.0.1:6443, its certificates are valid until 2026-05-20"},
		"not renewed": {client.Authorities{Access: listening, Expires: now.Add(3650 * day), ServingExpires: now}, missing, "was valid until 2026-03-01"},
		"old":         {client.Authorities{Access: listening, Expires: now.Add(89 * day), ServingExpires: now.Add(80 * day)}, warning, "is valid until 2026-05-29"},
		"rotated":     {client.Authorities{Access: listening, Expires: now.Add(3650 * day), ServingExpires: now.Add(80 * day), PreviousUntil: &soon}, warning, "work until 2026-03-02"},
	} {
		if got := judgeAccess(c.a, now); got.Severity != c.want || !strings.Contains(got.Message, c.text) || (got.Severity != ok) != (got.Fix != "") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
