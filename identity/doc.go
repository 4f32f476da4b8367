// Package identity knows who clients on TCP are, and proves to them who the
// daemon is.
//
//	              DATA/pki, for the daemon's user alone
//	authorities.json ── signs ──▶ serving.pem   what the daemon shows; renewed while it runs
//	  current, previous ── sign ─▶ certificates of clients (CN = user, O = groups)
//	credentials.json ── records ─▶ certificates by serial number, tokens by a hash of their secret
//	ca.crt                         the authorities that clients are to trust, for people to copy
//
// Whoever is not on record is nobody: a certificate counts only if an authority
// that is still trusted has signed it, it is within its time, and its serial
// number is on record; so one can be taken back by striking it out. Of a token
// the daemon keeps a hash only. What a credential may do is not known here.
//
// # Rotation
//
//	one authority ── Rotate(overlap) ──▶ current and previous ── overlap is over ──▶ one authority
//	                                     clients trust both;
//	                                     serving.pem is still signed by previous
//
// During the overlap old kubeconfigs go on working and new ones hold both
// authorities, so no moment is without one that both sides know.
//
// Files are replaced as a whole, so a crash leaves the old or the new content.
package identity
