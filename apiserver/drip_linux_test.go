package apiserver_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "sandboxd.dev/sandboxd/api/v1"
)

// TestStormDrip: clients that take a list at a byte a second share what is listed,
// keep what was replaced meanwhile once and not each, hold up nobody, and are ended
// when the time is over that an answer may take.
func TestStormDrip(t *testing.T) {
	v := startVictim(t, 0)
	c := newClient(t, unixConfig(v.path))
	big := func(i, round int) *v1.Sandbox {
		one := &v1.Sandbox{Spec: v1.SandboxSpec{Image: "tiny"}}
		one.Namespace, one.Name = "default", fmt.Sprintf("big-%d", i)
		one.Annotations = map[string]string{"big": strings.Repeat(fmt.Sprint(round), 100<<10)}
		return one
	}
	made := make([]*v1.Sandbox, 30) // three megabytes
	for i := range made {
		made[i] = big(i, 0)
		if err := c.Create(t.Context(), made[i]); err != nil {
			t.Fatal(err)
		}
	}
	before, files := v.resident(), v.files()
	count := stormy(40, 400)
	conns := make([]net.Conn, count)
	var dripping sync.WaitGroup
	defer dripping.Wait()
	defer func() { closeAll(conns) }()
	taken := make([]int, count)
	began := time.Now()
	for i := range conns {
		conns[i] = v.dial()
		accept := []string{"application/json", asTable, "application/json", asPartialList}[i%4]
		limit := []string{"", "", "&limit=20", ""}[i%4]
		if _, err := fmt.Fprintf(conns[i], "GET %s?includeObject=Object%s HTTP/1.1\r\nHost: x\r\nAccept: %s\r\n\r\n", sandboxes, limit, accept); err != nil {
			t.Fatal(err)
		}
		dripping.Go(func() {
			one := make([]byte, 1)
			for {
				if _, err := conns[i].Read(one); err != nil {
					return // it has been ended
				}
				taken[i]++
				time.Sleep(time.Second)
			}
		})
	}
	for round := 1; round <= 2; round++ { // what they are sent is replaced under them
		for i := range made {
			made[i].Annotations = big(i, round).Annotations
			if err := c.Update(t.Context(), made[i]); err != nil {
				t.Fatal(err)
			}
		}
		v.answers()
		v.bounded(before, 200<<20) // as copies of each, it would be a gigabyte at full size
	}
	if stormy(0, 1) == 0 {
		return
	}
	// The files are those of the server's side: what is left in the client's buffer is
	// still read, a byte a second.
	eventually(t, "they are ended", func() bool { return v.files() <= files+5 })
	t.Logf("%d slow readers were ended after %v", count, time.Since(began))
	if took := time.Since(began); took < time.Minute {
		t.Errorf("they were ended after %v: nobody should be in such a hurry", took)
	}
	v.answers()
	closeAll(conns)
	dripping.Wait()
	for i, n := range taken {
		if n == 0 && i%4 != 3 { // lists of metadata are long too, but be content with most
			t.Errorf("client %d was sent nothing", i)
		}
	}
}

// TestAnswersHaveOneDeadline: a list has so much time in all, however many pieces it
// is sent in. With time for each piece, who takes a byte a second would never be ended.
func TestAnswersHaveOneDeadline(t *testing.T) {
	a := newAPI(t)
	for i := range 5 {
		one := with(sandbox(fmt.Sprintf("big-%d", i)), strings.Repeat("x", 100<<10), "metadata", "annotations", "big")
		a.do("POST", sandboxes, one).want(201)
	}
	for _, accept := range []string{"application/json", "application/yaml", asTable, asPartialList} {
		w := &pieces{deadlines: deadlines{ResponseRecorder: httptest.NewRecorder()}}
		r := httptest.NewRequest("GET", sandboxes+"?includeObject=Object", nil)
		r.Header.Set("Accept", accept)
		a.handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK || w.Body.Len() < 500<<10 {
			t.Fatalf("%s: answered %d with %d bytes", accept, w.Code, w.Body.Len())
		}
		if len(w.write) != 1 || w.late {
			t.Errorf("%s: %d deadlines were set for %d pieces; after the first piece: %v", accept, len(w.write), w.count, w.late)
		}
	}
}

// pieces notes whether a deadline was set after the first piece of an answer.
type pieces struct {
	deadlines
	count int
	late  bool
}

func (p *pieces) Write(b []byte) (int, error) {
	p.count++
	return p.ResponseRecorder.Write(b)
}

func (p *pieces) SetWriteDeadline(t time.Time) error {
	p.late = p.late || p.count > 0
	return p.deadlines.SetWriteDeadline(t)
}

var _ io.Writer = (*pieces)(nil)
