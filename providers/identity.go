package providers

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
)

// Instance identifies the store that a provider works for. Everything made on
// a hypervisor is tagged with it, so that two daemons leave each other's
// machines alone.
type Instance string

// Short is the first 8 hexadecimal digits, for names with little room. A short
// form is a hint: ownership is decided by the full one.
func (i Instance) Short() string {
	if len(i) < 8 {
		return string(i)
	}
	return string(i[:8])
}

// MACAddress derives a machine's MAC address from its identity: the two bytes
// 52:54, whose local bit is set (IEEE 802, clause 8.4), and 32 bits of the
// SHA-256 of the UID and the index of the interface.
func MACAddress(id types.UID, index int) string {
	s := sha256.Sum256(fmt.Appendf(nil, "mac/%s/%d", id, index))
	return fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", s[0], s[1], s[2], s[3])
}

// hashOf is a short stable digest of a value's JSON form.
func hashOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("hash of %T: %v", v, err)) // only plain structs get here
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:8])
}
