package checksums

import (
	"errors"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for name, tc := range map[string]struct {
		file string
		want string
		err  error
	}{
		"text":                      {b + "  other.img\n" + a + "  disk.img\n", a, nil},
		"binary":                    {a + " *disk.img", a, nil},
		"BSD":                       {"SHA256 (other) = " + b + "\nSHA256 (disk.img) = " + a + "\n", a, nil},
		"BSD of another kind":       {"SHA512 (disk.img) = " + a + a + "\n", "", ErrMissing},
		"upper case":                {strings.ToUpper(a) + "  disk.img\n", a, nil},
		"CRLF":                      {a + "  disk.img\r\n", a, nil},
		"below the folder":          {a + "  ./disk.img\n", a, nil},
		"in another folder":         {a + "  x/disk.img\n", "", ErrMissing},
		"signed":                    {"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + a + "  disk.img\n-----BEGIN PGP SIGNATURE-----\n", a, nil},
		"twice the same":            {a + "  disk.img\n" + a + " *disk.img\n", a, nil},
		"twice another":             {a + "  disk.img\n" + b + "  disk.img\n", "", ErrAmbiguous},
		"a longer name":             {a + "  disk.img.sig\n", "", ErrMissing},
		"a name with its beginning": {a + "  my disk.img\n", "", ErrMissing},
		"too short":                 {a[1:] + "  disk.img\n", "", ErrMissing},
		"too long":                  {a + "a  disk.img\n", "", ErrMissing},
		"no hexadecimal":            {strings.Repeat("g", 64) + "  disk.img\n", "", ErrMissing},
		"escaped":                   {"\\" + a + "  disk.img\n", "", ErrMissing},
		"one space":                 {a + " disk.img\n", "", ErrMissing},
		"a line without end":        {strings.Repeat("x", 1<<20) + a + "  disk.img", "", ErrMissing},
		"empty":                     {"", "", ErrMissing},
		"a page":                    {"<html><body>404</body></html>", "", ErrMissing},
		"BSD cut off":               {"SHA256 (disk.img) = ", "", ErrMissing},
		"BSD with a name of its":    {"SHA256 (disk.img) = x) = " + a + "\n", "", ErrMissing},
	} {
		got, err := Find([]byte(tc.file), "disk.img")
		if got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := Find([]byte(a+"  \n"), ""); !errors.Is(err, ErrMissing) {
		t.Errorf("no name: %v", err)
	}
}

// FuzzFind: what is found is a digest, and stands in the file beside the name.
func FuzzFind(f *testing.F) {
	a := strings.Repeat("a", 64)
	f.Add([]byte(a+"  disk.img\nSHA256 (disk.img) = "+a+"\n"), "disk.img")
	f.Add([]byte("SHA256 () = "), "x")
	f.Fuzz(func(t *testing.T, file []byte, name string) {
		got, err := Find(file, name)
		if err != nil {
			return
		}
		if !isDigest(got) || !strings.Contains(string(file), name) || !strings.Contains(strings.ToLower(string(file)), got) {
			t.Fatalf("%q found in %q for %q", got, file, name)
		}
	})
}
