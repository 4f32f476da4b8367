package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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

// Permit lets a guest send from its addresses.
func (f *Firewall) Permit(g Guest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.change(g, (*nftables.Conn).SetAddElements)
}

// Revoke takes the permission back. It is no error if there was none.
func (f *Firewall) Revoke(g Guest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	held, err := f.check()
	if errors.Is(err, ErrNotInForce) || (err == nil && !held.Permits(g)) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.change(g, (*nftables.Conn).SetDeleteElements)
}

func (f *Firewall) change(g Guest, do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := bridgeTable(f.instance)
	nt := &nftables.Table{Family: t.family, Name: identity.Table(f.instance)}
	s := t.sets[0]
	if g.Mode == v1.NetworkIntnet {
		s = t.sets[1]
	}
	var elements []nftables.SetElement
	for _, k := range keys(g) {
		elements = append(elements, nftables.SetElement{Key: k})
	}
	if err := do(c, f.set(nt, s), elements); err != nil {
		return err
	}
	return permission(c.Flush())
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
type State struct{ elements map[string]bool }

// Permits tells whether a guest may send.
func (s State) Permits(g Guest) bool {
	for _, k := range keys(g) {
		if !s.elements[string(k)] {
			return false
		}
	}
	return true
}

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
	s := State{elements: map[string]bool{}}
	for _, t := range tables(f.instance) {
		if err := f.compare(c, t, s.elements); err != nil {
			return State{}, permission(err)
		}
	}
	return s, nil
}

// compare reads one table back.
func (f *Firewall) compare(c *nftables.Conn, t table, elements map[string]bool) error {
	name := identity.Table(f.instance)
	differs := func(what string) error {
		return fmt.Errorf("%w: %s of table %s (%s)", ErrNotInForce, what, name, familyName(t.family))
	}
	nt := &nftables.Table{Family: t.family, Name: name}
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
			return absent(err, differs("chain "+ch.name))
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
		got, err := c.GetSetElements(f.set(nt, s))
		if err != nil {
			return absent(err, differs("set "+s.name))
		}
		for _, e := range got {
			elements[string(e.Key)] = true
		}
	}
	return nil
}

// absent turns the kernel's "no such thing" into what it means here.
func absent(err, means error) error {
	if errors.Is(err, unix.ENOENT) {
		return means
	}
	return err
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
	s := State{elements: map[string]bool{}}
	for _, g := range guests {
		for _, k := range keys(g) {
			s.elements[string(k)] = true
		}
	}
	return s
}
