package unattended

import (
	"os/exec"
	"strings"
	"testing"
)

// TestCryptVectors checks the published test vector and what crypt(3) of
// another implementation says.
func TestCryptVectors(t *testing.T) {
	for _, tt := range []struct{ password, salt, want string }{
		{
			"Hello world!", "saltstring",
			"$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
		},
		{
			"we have a short salt string but not a short password", "short",
			"$6$short$qmfj2meTBr5G2EAGIJ4vjX7RpefsD4JzpEyTAeEUJdzdxlBS6pe8gdMHm5zFftaFSj/2p2bjBwyVS9ZhWpLZt.",
		},
		{"", "x", "$6$x$QSmr1Bx2g4O6BzKvdkgOcyU6H91X6I/XBv5pSalMhSPkwdH6Beo3F455xZJg0v//bxVK5F4OE5k1.0xuR26MK0"},
	} {
		if got := sha512Crypt([]byte(tt.password), tt.salt); got != tt.want {
			t.Errorf("%q with %q:\ngot  %s\nwant %s", tt.password, tt.salt, got, tt.want)
		}
	}
}

// TestCryptAgainstOpenSSL compares with another implementation, where one is
// installed.
func TestCryptAgainstOpenSSL(t *testing.T) {
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	for _, password := range []string{"a", "correct horse", strings.Repeat("x", 63), strings.Repeat("y", 64), strings.Repeat("z", 65), strings.Repeat("w", 200), `"'$&;\`, "Grüße"} {
		cmd := exec.Command(program, "passwd", "-6", "-salt", "abc./Z09", "-stdin")
		cmd.Stdin = strings.NewReader(password + "\n")
		want, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := sha512Crypt([]byte(password), "abc./Z09"); got != strings.TrimSpace(string(want)) {
			t.Errorf("%q:\ngot  %s\nwant %s", password, got, want)
		}
	}
}

func TestHashPassword(t *testing.T) {
	a, b := HashPassword("secret", "machine-1"), HashPassword("secret", "machine-2")
	if a == b || a != HashPassword("secret", "machine-1") {
		t.Errorf("the salt does not follow from the use: %s, %s", a, b)
	}
	if fields := strings.Split(a, "$"); len(fields) != 4 || fields[1] != "6" || len(fields[2]) != 16 || len(fields[3]) != 86 {
		t.Errorf("hash %q", a)
	}
	if !hashed.MatchString(a) {
		t.Errorf("%q is not what Answers take", a)
	}
}
