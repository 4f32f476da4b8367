package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// servingLife is how long the serving certificate is valid. It is renewed
	// when a third of that is left.
	servingLife = 90 * 24 * time.Hour
)

// TLSConfig is that of a server that shows the serving certificate, as it is at
// the time of each handshake: a renewal ends no connection. Certificates of
// clients are asked for, and judged by Authenticate: a handshake tells nobody
// why it failed.
func (k *Keeper) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Those of TLS 1.2 with forward secrecy and authenticated encryption;
		// TLS 1.3 has no others.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		ClientAuth:     tls.RequestClientCert,
		GetCertificate: k.certificate,
	}
}

// certificate is the serving certificate, renewed when it is due.
func (k *Keeper) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := k.clock.Now()
	k.mu.RLock()
	serving, due := k.serving, k.due(now)
	k.mu.RUnlock()
	if !due {
		return serving, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.settle(now); err != nil {
		// The old one is better than none: clients find out if it is over.
		k.log.Error(err, "The serving certificate cannot be renewed", "expires", k.serving.Leaf.NotAfter)
	}
	return k.serving, nil
}

// due tells whether settle has something to do.
func (k *Keeper) due(now time.Time) bool {
	old := k.authorities.Previous
	return !now.Before(k.renewAt) || now.Before(k.serving.Leaf.NotBefore) || old != nil && !now.Before(old.Until)
}

// loadServing reads the serving certificate; without a usable one there is
// none, and another is made.
func (k *Keeper) loadServing() {
	raw, err := os.ReadFile(filepath.Join(k.dir, servingFile))
	if err != nil {
		return
	}
	pair, err := tls.X509KeyPair(raw, raw)
	if err != nil || pair.Leaf == nil {
		return
	}
	k.setServing(&pair)
}

func (k *Keeper) setServing(pair *tls.Certificate) {
	life := pair.Leaf.NotAfter.Sub(pair.Leaf.NotBefore)
	k.serving, k.renewAt = pair, pair.Leaf.NotAfter.Add(-life/3)
}

// servesFor tells whether the serving certificate is valid, for all names, and
// by the authority that is to sign it.
func (k *Keeper) servesFor(now time.Time) bool {
	leaf := k.serving.Leaf
	names, addresses := k.alternatives()
	return !now.Before(leaf.NotBefore) && leaf.CheckSignatureFrom(k.authorities.server().cert) == nil &&
		slices.Equal(names, leaf.DNSNames) && slices.EqualFunc(addresses, leaf.IPAddresses, net.IP.Equal)
}

// renew makes a new serving certificate. mu is held.
func (k *Keeper) renew(now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	names, addresses := k.alternatives()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "sandboxd"},
		DNSNames:     names, IPAddresses: addresses,
		NotBefore: now.Add(-skew), NotAfter: now.Add(servingLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	signer := k.authorities.server()
	der, err := signer.sign(template, key.Public())
	if err != nil {
		return err
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := append(encodePEM("CERTIFICATE", der), encodePEM("PRIVATE KEY", rawKey)...)
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return err
	}
	renewed := k.serving != nil
	k.setServing(&pair) // also if it cannot be kept: another is made at the next start
	k.log.Info("A serving certificate was made", "expires", pair.Leaf.NotAfter, "renewed", renewed)
	return k.save(servingFile, text)
}

// alternatives are the names and addresses that the serving certificate is for:
// this host by itself, its name, and what was asked for. For an address that
// stands for all, they are those of the host.
func (k *Keeper) alternatives() ([]string, []net.IP) {
	names := []string{"localhost"}
	addresses := []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	for _, name := range k.names {
		address := net.ParseIP(name)
		switch {
		case address == nil:
			names = append(names, name)
		case address.IsUnspecified():
			addresses = append(addresses, hostAddresses()...)
		default:
			addresses = append(addresses, address)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for i, a := range addresses {
		if four := a.To4(); four != nil {
			addresses[i] = four
		}
	}
	slices.SortFunc(addresses, func(a, b net.IP) int { return slices.Compare(a, b) })
	return names, slices.CompactFunc(addresses, net.IP.Equal)
}

// hostAddresses are those that others may reach the host by.
func hostAddresses() []net.IP {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil // none are known then; tls.names tells them
	}
	var found []net.IP
	for _, a := range all {
		if network, ok := a.(*net.IPNet); ok && !network.IP.IsLinkLocalUnicast() {
			found = append(found, network.IP)
		}
	}
	return found
}
