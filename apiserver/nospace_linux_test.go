package apiserver_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sandboxd.dev/sandboxd/apiserver"
	"sandboxd.dev/sandboxd/store/bolt"
	"sandboxd.dev/sandboxd/test/smalldisk"
)

// TestFullDisk: on a full disk writes are refused by a sentence that says so, reads
// and watches go on, and with room again so do writes; no restart is needed.
func TestFullDisk(t *testing.T) {
	smalldisk.Run(t, "4m", func(t *testing.T, d smalldisk.Disk) {
		st, err := bolt.Open(filepath.Join(d.Dir, "sandboxd.db"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = st.Close() })
		a, server := newWatched(t, func(o *apiserver.Options) { o.Store = st })
		w := watch(t, server, events+"?watch=true")
		a.do("POST", events, coreEvent("before", "a")).want(201)
		w.want("ADDED before")
		d.Fill(0)
		refused := 0
		for i := 0; i < 2000 && refused < 3; i++ {
			body := strings.Replace(coreEvent(fmt.Sprintf("e%d", i), "a"), "it runs", strings.Repeat("x", 900), 1)
			switch got := a.do("POST", events, body); got.code {
			case 201:
				w.want(fmt.Sprintf("ADDED e%d", i))
			case 507:
				refused++
				got.refused(507, "InsufficientCapacity", d.Dir, "make room")
			default:
				t.Fatalf("on a full disk: %d %s", got.code, got.body)
			}
		}
		if refused == 0 {
			t.Fatal("nothing was refused")
		}
		a.get(events + "/before").want(200)
		d.Empty()
		a.do("POST", events, coreEvent("after", "a")).want(201)
		w.want("ADDED after")
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
}
