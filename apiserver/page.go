package apiserver

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sandboxd.dev/sandboxd/store"
)

// newest is the revision of a list that shows what there is.
const newest int64 = -1

// pageOptions are which state of a collection a list shows, and which part of it:
//
//	continue  resourceVersion  resourceVersionMatch  limit   state
//	unset     ""               unset                 any     the newest
//	unset     0                unset, NotOlderThan   any     the newest, and all of it
//	unset     N                unset                 unset   the newest; N was reached
//	unset     N                NotOlderThan          any     the newest; N was reached
//	unset     N                unset                 set     exactly N
//	unset     N                Exact                 any     exactly N
//	set       "" or 0          unset                 any     that of the first page
//
// These are the rules of Kubernetes, and all pages of a list show one state. No
// state is kept for them: the store undoes what was written since, for as far back
// as a watch goes.
type pageOptions struct {
	at    int64 // the revision, or newest
	limit int   // 0 for all
	// from is where the list goes on: behind this key.
	from     store.Key
	goesOn   bool
	listMark string // what list it is, for the next page's token
}

// page is a part of a list, or all of it.
type page struct {
	entries  []store.Entry
	revision int64
	// next is the token of the next page; empty for the last.
	next string
	// remaining is how many follow; nil where it is not known.
	remaining *int64
}

// meta is a page's metadata.
func (p page) meta() metav1.ListMeta {
	return metav1.ListMeta{ResourceVersion: formatRevision(p.revision), Continue: p.next, RemainingItemCount: p.remaining}
}

// newPageOptions reads the parameters of a list that say which part of it is wanted.
func newPageOptions(query url.Values, sel *selector) (pageOptions, error) {
	o := pageOptions{at: newest, listMark: listMark(sel)}
	if err := checkListOptions(query, false); err != nil {
		return o, err
	}
	limit, err := queryLimit(query)
	if err != nil {
		return o, err
	}
	version := query.Get("resourceVersion")
	wanted, err := queryRevision(version)
	if err != nil {
		return o, err
	}
	if token := query.Get("continue"); token != "" {
		if wanted != 0 {
			return o, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		o.limit, o.goesOn = limit, true
		o.at, o.from, err = readContinue(token, o.listMark)
		return o, err
	}
	if version == "0" {
		// As a real API server, which answers this from its cache: informers ask so,
		// and are not to take twenty requests for what one gives them.
		return o, nil
	}
	o.limit = limit
	match := metav1.ResourceVersionMatch(query.Get("resourceVersionMatch"))
	if match == metav1.ResourceVersionMatchExact || match == "" && limit > 0 && wanted > 0 {
		o.at = wanted
	}
	return o, nil
}

// queryLimit reads how many objects a client takes at once; 0 for all.
func queryLimit(query url.Values) (int, error) {
	text := query.Get("limit")
	if text == "" {
		return 0, nil
	}
	limit, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("limit %q is not a number of objects", text))
	}
	const most = 1 << 30 // nobody has so many; it is for the sums that are made of it
	return int(min(max(limit, 0), most)), nil
}

// snapshot reads the state that a list shows.
func (s *Server) snapshot(rq *request, o pageOptions) (store.Snapshot, error) {
	key := rq.resource.base().key
	if o.at == newest {
		snapshot, err := s.store.List(rq.Context(), key, rq.namespace)
		return snapshot, storeError(err, rq.resource.groupResource(), "")
	}
	snapshot, err := s.store.ListAt(rq.Context(), key, rq.namespace, o.at)
	switch {
	case o.goesOn && (errors.Is(err, store.ErrCompacted) || errors.Is(err, store.ErrFutureRevision)):
		// A backup that was restored takes the store back before the first page.
		return snapshot, o.expired()
	case errors.Is(err, store.ErrCompacted):
		return snapshot, expiredError(o.at)
	}
	return snapshot, storeError(err, rq.resource.groupResource(), "")
}

// cut takes a page out of the entries of a list, in order.
func (o pageOptions) cut(snapshot store.Snapshot, sel *selector) (page, error) {
	rest := snapshot.Entries
	if o.goesOn {
		at, found := slices.BinarySearchFunc(rest, o.from, func(e store.Entry, key store.Key) int { return comparePlaces(e.Key, key) })
		if found {
			at++
		}
		rest = rest[at:]
	}
	p := page{revision: snapshot.Revision, entries: rest[:0]} // it is ours
	for i, e := range rest {
		ok, _, err := sel.matches(e.Key, e.Value, e.Revision)
		if err != nil {
			return page{}, fmt.Errorf("%s: %w", e.Key, err)
		}
		if !ok {
			continue
		}
		if o.limit == 0 || len(p.entries) < o.limit {
			p.entries = append(p.entries, e)
			continue
		}
		p.next = writeContinue(snapshot.Revision, p.entries[o.limit-1].Key, o.listMark)
		if sel.labels.Empty() && sel.fields.Empty() {
			remaining := int64(len(rest) - i)
			p.remaining = &remaining
		}
		break
	}
	return p, nil
}

// comparePlaces orders the keys of a resource as lists are.
func comparePlaces(a, b store.Key) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// expired is the answer to who goes on with a list whose state can no longer be
// shown: with a token to go on with what there is.
func (o pageOptions) expired() error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the " +
		"remainder of the results: what was created, changed or deleted meanwhile may be in it then.")
	err.ErrStatus.Continue = writeContinue(newest, o.from, o.listMark)
	return err
}

// continuation is what a token says. It is no secret and not signed: who makes one
// gets no more than the list that it is asked for, to which there is a right or not.
type continuation struct {
	Revision  int64  `json:"rv"` // of the first page, or newest
	Namespace string `json:"ns,omitempty"`
	Name      string `json:"name"` // of the last object there was
	List      string `json:"list"`
}

// maxContinue is longer than any token with names that objects can have.
const maxContinue = 2048

// listMark tells lists apart: a token is good for the one that it comes from.
func listMark(sel *selector) string {
	text := strings.Join([]string{sel.resource.gvr.String(), sel.namespace, sel.labels.String(), sel.fields.String()}, "\x00")
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

func writeContinue(revision int64, last store.Key, mark string) string {
	// Numbers and texts can always be written.
	raw, _ := json.Marshal(continuation{Revision: revision, Namespace: last.Namespace, Name: last.Name, List: mark})
	return base64.RawURLEncoding.EncodeToString(raw)
}

// readContinue reads a token of a list. The key that it returns has no resource.
func readContinue(token, mark string) (int64, store.Key, error) {
	refuse := func(why string) (int64, store.Key, error) {
		return 0, store.Key{}, apierrors.NewBadRequest("invalid continue token: it " + why + ": list again from the start, without it")
	}
	if len(token) > maxContinue {
		return refuse("is too long")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return refuse("is not one of this server")
	}
	var c continuation
	if err := json.Unmarshal(raw, &c); err != nil || c.Name == "" || c.Revision < newest || c.Revision == 0 {
		return refuse("is not one of this server")
	}
	if c.List != mark {
		return refuse("is of another list, by its kind, namespace or selectors")
	}
	return c.Revision, store.Key{Namespace: c.Namespace, Name: c.Name}, nil
}
