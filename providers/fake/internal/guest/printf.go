package guest

import (
	"fmt"
	"strconv"
	"strings"
)

// printf knows %s, %d and %%, and the escapes \n, \t, \r, \\ and \OOO (octal).
// The format is used again while there are arguments left.
func printf(c call) int {
	if len(c.Args) < 2 {
		return c.fail("usage: printf FORMAT [ARGUMENT…]")
	}
	var out strings.Builder
	args := c.Args[2:]
	for {
		rest, err := format(&out, c.Args[1], args)
		if err != nil {
			return c.fail("%v", err)
		}
		if len(rest) == 0 || len(rest) == len(args) {
			return c.print(out.String())
		}
		args = rest
	}
}

// format writes the format once and returns the arguments that are left.
func format(out *strings.Builder, f string, args []string) ([]string, error) {
	for i := 0; i < len(f); i++ {
		switch {
		case f[i] == '\\':
			i += escape(out, f[i+1:])
		case f[i] != '%':
			out.WriteByte(f[i])
		case strings.HasPrefix(f[i:], "%%"):
			out.WriteByte('%')
			i++
		case strings.HasPrefix(f[i:], "%s"), strings.HasPrefix(f[i:], "%d"):
			i++
			arg := ""
			if len(args) > 0 {
				arg, args = args[0], args[1:]
			}
			if f[i] == 'd' {
				n, err := strconv.ParseInt(arg, 10, 64)
				if err != nil && arg != "" {
					return nil, fmt.Errorf("bad number %q", arg)
				}
				arg = strconv.FormatInt(n, 10)
			}
			out.WriteString(arg)
		default:
			return nil, fmt.Errorf("format %q is not supported", f[i:])
		}
	}
	return args, nil
}

// escape writes what the text behind a backslash stands for and returns how
// much of it was used.
func escape(out *strings.Builder, s string) int {
	if s == "" {
		out.WriteByte('\\')
		return 0
	}
	if i := strings.IndexByte(`ntr\`, s[0]); i >= 0 {
		out.WriteByte("\n\t\r\\"[i])
		return 1
	}
	n, digits := 0, 0
	for digits < 3 && digits < len(s) && s[digits] >= '0' && s[digits] <= '7' {
		n = n*8 + int(s[digits]-'0')
		digits++
	}
	if digits == 0 {
		out.WriteByte('\\')
		return 0
	}
	out.WriteByte(byte(n))
	return digits
}
