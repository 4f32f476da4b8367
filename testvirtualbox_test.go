package sandboxd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCrashesOfVirtualBox runs the tests on VirtualBox with a go that only says what they
// would have said: what failed is run again where VirtualBox crashed by itself meanwhile,
// and nowhere else.
func TestCrashesOfVirtualBox(t *testing.T) {
	script, err := os.ReadFile("hack/test-virtualbox")
	if err != nil {
		t.Fatal(err)
	}
	const (
		failed   = "--- FAIL: TestOne (0.10s)\n    one_test.go:1: wrong\n"
		other    = "--- FAIL: TestOther (0.10s)\n"
		ended    = "FAIL\nFAIL\tone\t0.1s\n"
		crash    = "crash TestOne\n"
		fine     = "ok\tone\t0.1s\n"
		killed   = "signal: killed\nFAIL\tone\t0.1s\n"
		unbuilt  = "FAIL\ttwo [build failed]\n"
		panicked = "panic: wrong\n\ngoroutine 1 [running]:\nFAIL\tone\t0.1s\n"
		fatal    = "fatal error: concurrent map writes\n\ngoroutine 1 [running]:\nFAIL\tone\t0.1s\n"
	)
	for name, c := range map[string]struct {
		rounds  []string // what is said in each
		runs    int
		succeed bool
	}{
		"all go well":                      {[]string{fine}, 1, true},
		"one fails":                        {[]string{failed + ended, fine}, 1, false},
		"one that VirtualBox crashed in":   {[]string{crash + failed + ended, fine}, 2, true},
		"crashed in twice":                 {[]string{crash + failed + ended, crash + failed + ended, fine}, 3, true},
		"crashed in each time":             {[]string{crash + failed + ended, crash + failed + ended, crash + failed + ended, fine}, 3, false},
		"fails without a crash then":       {[]string{crash + failed + ended, failed + ended, fine}, 2, false},
		"another fails, too":               {[]string{crash + failed + other + ended, fine}, 1, false},
		"a crash in one that went well":    {[]string{"crash TestGood\n" + failed + ended, fine}, 1, false},
		"killed after that":                {[]string{crash + failed + killed, fine}, 1, false},
		"panics after that":                {[]string{crash + failed + panicked, fine}, 1, false},
		"ended by Go after that":           {[]string{crash + failed + fatal, fine}, 1, false},
		"the other package was not built":  {[]string{crash + failed + ended + unbuilt + "FAIL\n", fine}, 1, false},
		"nothing is said of what went bad": {[]string{"FAIL\n", fine}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write := func(path, text string, mode os.FileMode) string {
				t.Helper()
				path = filepath.Join(dir, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), mode); err != nil {
					t.Fatal(err)
				}
				return path
			}
			program := write("hack/test-virtualbox", string(script), 0o700)
			write("hack/private-virtualbox", "#!/bin/bash\nshift\nexec \"$@\"\n", 0o700)
			write("bin/sudo", "#!/bin/bash\nshift\nexec \"$@\"\n", 0o700)
			for i, says := range c.rounds {
				write("round-"+string(rune('1'+i)), says, 0o600)
			}
			write("go", `#!/bin/bash
[[ $1 == test ]] || exit 0
cd "$(dirname "$0")"
echo "$*" >>runs
said=round-$(wc -l <runs)
sed -n 's/^crash //p' "$said" >>"$SANDBOXD_VIRTUALBOX_CRASHES"
sed '/^crash /d' "$said"
! grep -q ^FAIL "$said"
`, 0o700)
			cmd := exec.CommandContext(t.Context(), "bash", program, write("image", "", 0o600), "-short")
			cmd.Env = append(os.Environ(), "GO="+filepath.Join(dir, "go"), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Run()
			raw, readErr := os.ReadFile(filepath.Join(dir, "runs"))
			if readErr != nil {
				t.Fatalf("%v, %v\n%s", err, readErr, &out)
			}
			runs := strings.Split(strings.TrimSpace(string(raw)), "\n")
			if (err == nil) != c.succeed || len(runs) != c.runs {
				t.Errorf("it ended with %v after %q\n%s", err, runs, &out)
			}
			for i, run := range runs {
				if again := strings.Contains(run, "-short -run ^(TestOne)$ "); again != (i > 0) {
					t.Errorf("run %d is %s", i+1, run)
				}
			}
			if told := strings.Count(out.String(), "VirtualBox crashed by itself during TestOne: running that again"); told != c.runs-1 {
				t.Errorf("told %d times:\n%s", told, &out)
			}
		})
	}
}
