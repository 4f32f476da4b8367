//go:build linux

package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	v1 "sandboxd.dev/sandboxd/api/v1"
	"sandboxd.dev/sandboxd/providers"
	"sandboxd.dev/sandboxd/providers/kvm/internal/identity"
)

// Errors of a Firewall.
var (
	// ErrNotPermitted: the process may not change the host's firewall.
	ErrNotPermitted = errors.New("changing the firewall needs CAP_NET_ADMIN: run sandboxd as root")
	// ErrNotInForce: the kernel does not hold the rules as they ought to be.
	ErrNotInForce = errors.New("the firewall rules are not in force")
)

// Firewall is the tables of one instance in the network namespace of the
// process. Its methods may be called from many goroutines.
type Firewall struct {
	instance providers.Instance
	mu       sync.Mutex
}

// New makes a Firewall; the kernel is not touched yet.
func New(i providers.Instance) *Firewall { return &Firewall{instance: i} }

// Guest is what the sets know of a guest.
type Guest struct {
	Mode v1.NetworkMode
	Tap  string
	MAC  net.HardwareAddr
	// Address of the guest; not used on internal networks, where guests choose
	// their own.
	Address netip.Addr
}

// Ensure puts the tables in place unless they are. Replacing them empties the
// sets: guests are mute until they are permitted anew.
func (f *Firewall) Ensure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.check(); !errors.Is(err, ErrNotInForce) {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, t := range tables(f.instance) {
		f.replace(c, t)
	}
	if err := c.Flush(); err != nil {
		return permission(err)
	}
	_, err = f.check()
	return err
}

// replace queues the making of a table, in place of one that may exist.
func (f *Firewall) replace(c *nftables.Conn, t table) {
	nt := &nftables.Table{Family: t.family, Name: identity.Table(f.instance)}
	c.AddTable(nt)
	c.DelTable(nt)
	c.AddTable(nt)
	for _, s := range t.sets {
		// The only error is that of elements, of which there are none yet.
		_ = c.AddSet(f.set(nt, s), nil)
	}
	for _, ch := range t.chains {
		nc := &nftables.Chain{Name: ch.name, Table: nt}
		if ch.hook != nil {
			policy := nftables.ChainPolicyAccept
			nc.Type, nc.Hooknum, nc.Priority, nc.Policy = nftables.ChainTypeFilter, ch.hook, &ch.priority, &policy
		}
		c.AddChain(nc)
	}
	for _, ch := range t.chains {
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: nt, Chain: &nftables.Chain{Name: ch.name, Table: nt}, Exprs: r})
		}
	}
}

func (f *Firewall) set(t *nftables.Table, s set) *nftables.Set {
	return &nftables.Set{Table: t, Name: s.name, KeyType: nftables.MustConcatSetType(s.key...), Concatenation: true}
}

// Remove removes the tables. It is no error if there are none.
func (f *Firewall) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, t := range tables(f.instance) {
		nt := &nftables.Table{Family: t.family, Name: identity.Table(f.instance)}
		c.AddTable(nt) // so that there is one to delete
		c.DelTable(nt)
	}
	return permission(c.Flush())
}

// Exists tells whether any of the tables is there.
func (f *Firewall) Exists() bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	for _, t := range tables(f.instance) {
		if list, err := c.ListTablesOfFamily(t.family); err == nil {
			for _, have := range list {
				if have.Name == identity.Table(f.instance) {
					return true
				}
			}
		}
	}
	return false
}

// Permit lets a guest send from its addresses, and from no others that it may
// have had before.
func (f *Firewall) Permit(g Guest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return permission(f.replaceKeys(g.Mode, g.Tap, keys(g)))
}

// Revoke takes the permission back from whatever is behind a tap. It is no
// error if there was none.
func (f *Firewall) Revoke(mode v1.NetworkMode, tap string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.replaceKeys(mode, tap, nil); !errors.Is(err, unix.ENOENT) {
		return permission(err)
	}
	return nil
}

// replaceKeys makes the elements of a tap these, in one transaction.
func (f *Firewall) replaceKeys(mode v1.NetworkMode, tap string, want [][]byte) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := bridgeTable(f.instance)
	s := t.sets[0]
	if mode == v1.NetworkIntnet {
		s = t.sets[1]
	}
	in := f.set(&nftables.Table{Family: t.family, Name: identity.Table(f.instance)}, s)
	held, err := elements(c, in)
	if err != nil {
		return err
	}
	var stale, missing []nftables.SetElement
	for _, e := range held {
		if tapOf(e.Key) == tap && !slices.ContainsFunc(want, func(k []byte) bool { return bytes.Equal(k, e.Key) }) {
			stale = append(stale, nftables.SetElement{Key: e.Key})
		}
	}
	for _, k := range want {
		if !slices.ContainsFunc(held, func(e nftables.SetElement) bool { return bytes.Equal(k, e.Key) }) {
			missing = append(missing, nftables.SetElement{Key: k})
		}
	}
	for _, change := range []struct {
		elements []nftables.SetElement
		make     func(*nftables.Set, []nftables.SetElement) error
	}{{stale, c.SetDeleteElements}, {missing, c.SetAddElements}} {
		if len(change.elements) == 0 {
			continue
		}
		if err := change.make(in, change.elements); err != nil {
			return err
		}
	}
	return c.Flush()
}

// tapOf is the link's name that a key begins with.
func tapOf(key []byte) string {
	name, _, _ := bytes.Cut(key[:min(len(key), unix.IFNAMSIZ)], []byte{0})
	return string(name)
}

// keys of a guest's elements, as the kernel concatenates them: each part is
// padded to four bytes.
func keys(g Guest) [][]byte {
	key := make([]byte, unix.IFNAMSIZ, unix.IFNAMSIZ+12)
	copy(key, g.Tap)
	key = append(append(key, g.MAC...), 0, 0)
	if g.Mode == v1.NetworkIntnet {
		return [][]byte{key}
	}
	return [][]byte{
		append(key[:len(key):len(key)], g.Address.AsSlice()...),
		append(key[:len(key):len(key)], 0, 0, 0, 0),
	}
}

// State is what the kernel was seen to hold: the rules as they ought to be,
// and these guests.
type State struct {
	keys map[string][]string // by tap
}

func (s State) add(key []byte) {
	tap := tapOf(key)
	s.keys[tap] = append(s.keys[tap], string(key))
}

// Permits tells whether a guest may send from its addresses, and from no
// others.
func (s State) Permits(g Guest) bool {
	want, held := keys(g), s.keys[g.Tap]
	for _, k := range want {
		if !slices.Contains(held, string(k)) {
			return false
		}
	}
	return len(held) == len(want)
}

// Knows tells whether anything may send from behind a tap.
func (s State) Knows(tap string) bool { return len(s.keys[tap]) > 0 }

// Check reads the tables back from the kernel. ErrNotInForce says what differs.
func (f *Firewall) Check() (State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.check()
}

func (f *Firewall) check() (State, error) {
	c, err := nftables.New()
	if err != nil {
		return State{}, err
	}
	s := State{keys: map[string][]string{}}
	for _, t := range tables(f.instance) {
		if err := f.compare(c, t, s); err != nil {
			return State{}, permission(err)
		}
	}
	return s, nil
}

// compare reads one table back.
func (f *Firewall) compare(c *nftables.Conn, t table, seen State) error {
	name := identity.Table(f.instance)
	differs := func(what string) error {
		return fmt.Errorf("%w: %s of table %s (%s)", ErrNotInForce, what, name, familyName(t.family))
	}
	nt := &nftables.Table{Family: t.family, Name: name}
	have, err := c.ListTablesOfFamily(t.family)
	if err != nil {
		return err
	}
	for _, h := range have {
		if h.Name == name && h.Flags != 0 { // such as dormant, which lists rules and does not apply them
			return differs("the flags")
		}
	}
	chains, err := c.ListChainsOfTableFamily(t.family)
	if err != nil {
		return err
	}
	held := map[string]*nftables.Chain{}
	for _, ch := range chains {
		if ch.Table.Name == name {
			held[ch.Name] = ch
		}
	}
	for _, ch := range t.chains {
		got := held[ch.name]
		if got == nil || !sameHook(ch, got) {
			return differs("chain " + ch.name)
		}
		rules, err := c.GetRules(nt, &nftables.Chain{Name: ch.name, Table: nt})
		if err != nil {
			return err
		}
		if len(rules) != len(ch.rules) {
			return differs("the number of rules in chain " + ch.name)
		}
		for i, r := range rules {
			if !sameExprs(t.family, ch.rules[i], r.Exprs) {
				return differs(fmt.Sprintf("rule %d of chain %s", i+1, ch.name))
			}
		}
	}
	for _, s := range t.sets {
		got, err := elements(c, f.set(nt, s))
		if errors.Is(err, unix.ENOENT) {
			return differs("set " + s.name)
		}
		if err != nil {
			return err
		}
		for _, e := range got {
			seen.add(e.Key)
		}
	}
	return nil
}

// elements reads a set; unix.ENOENT when there is no such set. The library's
// reading of elements alone does not let that be seen.
func elements(c *nftables.Conn, s *nftables.Set) ([]nftables.SetElement, error) {
	if _, err := c.GetSetByName(s.Table, s.Name); err != nil {
		return nil, err
	}
	return c.GetSetElements(s)
}

func sameHook(want chain, got *nftables.Chain) bool {
	if want.hook == nil {
		return got.Hooknum == nil
	}
	return got.Hooknum != nil && *got.Hooknum == *want.hook &&
		got.Priority != nil && *got.Priority == want.priority &&
		got.Policy != nil && *got.Policy == nftables.ChainPolicyAccept
}

// sameExprs compares expressions by what the kernel is told. A lookup is told
// its set by name; the set's number in a transaction is not read back.
func sameExprs(family nftables.TableFamily, want, got []expr.Any) bool {
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		w, err1 := expr.Marshal(byte(family), plain(want[i]))
		g, err2 := expr.Marshal(byte(family), plain(got[i]))
		if err1 != nil || err2 != nil || string(w) != string(g) {
			return false
		}
	}
	return true
}

func plain(e expr.Any) expr.Any {
	if l, ok := e.(*expr.Lookup); ok {
		return &expr.Lookup{SourceRegister: l.SourceRegister, SetName: l.SetName, Invert: l.Invert, DestRegister: l.DestRegister, IsDestRegSet: l.IsDestRegSet}
	}
	return e
}

func permission(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return ErrNotPermitted
	}
	return err
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyBridge:
		return "bridge"
	case nftables.TableFamilyARP:
		return "arp"
	default:
		return "inet"
	}
}

// Permitting is the state in which the rules are in force and permit these
// guests, for judging without a kernel.
func Permitting(guests ...Guest) State {
	s := State{keys: map[string][]string{}}
	for _, g := range guests {
		for _, k := range keys(g) {
			s.add(k)
		}
	}
	return s
}
