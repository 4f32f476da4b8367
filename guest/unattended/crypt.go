package unattended

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"strings"
)

// rounds of the hash: the number that needs no mention in it.
const rounds = 5000

// saltAlphabet is what a salt may consist of, and how a hash is written.
const saltAlphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// HashPassword hashes a password as crypt(3) does with SHA-512 ($6$). The salt
// follows from what is given for it, which must be different for each use: the
// same machine's answers are the same bytes whenever they are written.
func HashPassword(password, use string) string {
	sum := sha256.Sum256([]byte("sandboxd password salt\x00" + use))
	salt := base64.NewEncoding(saltAlphabet).WithPadding(base64.NoPadding).EncodeToString(sum[:12])
	return sha512Crypt([]byte(password), salt)
}

// sha512Crypt is the algorithm of "Unix crypt using SHA-256 and SHA-512"
// (Drepper, 2007), whose steps the numbers name.
func sha512Crypt(password []byte, salt string) string {
	b := sha512.New() // 4-8
	b.Write(password)
	b.Write([]byte(salt))
	b.Write(password)
	sumB := b.Sum(nil)

	a := sha512.New() // 1-3, 9-12
	a.Write(password)
	a.Write([]byte(salt))
	a.Write(repeated(sumB, len(password)))
	for n := len(password); n > 0; n >>= 1 {
		if n&1 != 0 {
			a.Write(sumB)
		} else {
			a.Write(password)
		}
	}
	sum := a.Sum(nil)

	dp := sha512.New() // 13-16
	for range password {
		dp.Write(password)
	}
	p := repeated(dp.Sum(nil), len(password))
	ds := sha512.New() // 17-20
	for range 16 + int(sum[0]) {
		ds.Write([]byte(salt))
	}
	s := repeated(ds.Sum(nil), len(salt))

	for i := range rounds { // 21
		c := sha512.New()
		if i&1 != 0 {
			c.Write(p)
		} else {
			c.Write(sum)
		}
		if i%3 != 0 {
			c.Write(s)
		}
		if i%7 != 0 {
			c.Write(p)
		}
		if i&1 != 0 {
			c.Write(sum)
		} else {
			c.Write(p)
		}
		sum = c.Sum(nil)
	}
	return "$6$" + salt + "$" + encodeSum(sum)
}

// repeated is a sum, over and over, in a length.
func repeated(sum []byte, length int) []byte {
	return bytes.Repeat(sum, length/len(sum)+1)[:length]
}

// encodeSum writes a sum in crypt's own order (22): 24 bits at a time, the least
// significant six first.
func encodeSum(sum []byte) string {
	var out strings.Builder
	put := func(v uint32, digits int) {
		for range digits {
			out.WriteByte(saltAlphabet[v&63])
			v >>= 6
		}
	}
	for i := range 21 {
		a, b, c := i, i+21, i+42
		switch i % 3 {
		case 1:
			a, b, c = b, c, a
		case 2:
			a, b, c = c, a, b
		}
		put(uint32(sum[a])<<16|uint32(sum[b])<<8|uint32(sum[c]), 4)
	}
	put(uint32(sum[63]), 2)
	return out.String()
}
