package shell

import (
	"errors"
	"fmt"
	"strings"
)

// skip passes blanks and comments, and newlines where they mean nothing. A
// semicolon is left to the list.
func (p *parser) skip(newlines bool) {
	for p.pos < len(p.src) {
		switch c := p.src[p.pos]; {
		case c == ' ' || c == '\t' || c == '\n' && newlines:
			p.pos++
		case c == '\\' && strings.HasPrefix(p.src[p.pos:], "\\\n"):
			p.pos += 2
		case c == '#':
			for p.pos < len(p.src) && p.src[p.pos] != '\n' {
				p.pos++
			}
		default:
			return
		}
	}
}

// atReserved tells whether one of the given words comes next.
func (p *parser) atReserved(words string) bool {
	for w := range strings.FieldsSeq(words) {
		if p.peekReserved(w) {
			return true
		}
	}
	return false
}

func (p *parser) peekReserved(w string) bool {
	rest, ok := strings.CutPrefix(p.src[p.pos:], w)
	return ok && (rest == "" || strings.ContainsRune(" \t\n;()&|<>", rune(rest[0])))
}

// reserved reads the given word if it comes next.
func (p *parser) reserved(w string) bool {
	if !p.peekReserved(w) {
		return false
	}
	p.pos += len(w)
	return true
}

func isNameByte(c byte, first bool) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || !first && c >= '0' && c <= '9'
}

func (p *parser) name() string {
	start := p.pos
	for p.pos < len(p.src) && isNameByte(p.src[p.pos], p.pos == start) {
		p.pos++
	}
	return p.src[start:p.pos]
}

func (p *parser) assign() (assign, bool, error) {
	start := p.pos
	name := p.name()
	if name == "" || p.pos >= len(p.src) || p.src[p.pos] != '=' {
		p.pos = start
		return assign{}, false, nil
	}
	p.pos++
	w, err := p.word()
	return assign{name, w}, true, err
}

// redirect parses [n]<word, [n]>word, [n]>>word and [n]>&m.
func (p *parser) redirect() (redirect, bool, error) {
	start := p.pos
	r := redirect{fd: -1}
	if p.pos+1 < len(p.src) && p.src[p.pos] >= '0' && p.src[p.pos] <= '2' {
		r.fd = int(p.src[p.pos] - '0')
		p.pos++
	}
	for _, op := range []string{">>", ">&", ">", "<"} {
		if strings.HasPrefix(p.src[p.pos:], op) {
			r.op = op
			break
		}
	}
	if r.op == "" {
		p.pos = start
		return r, false, nil
	}
	if strings.HasPrefix(p.src[p.pos:], "<<") || strings.HasPrefix(p.src[p.pos:], "<&") {
		return r, false, p.unexpected()
	}
	p.pos += len(r.op)
	if r.fd < 0 {
		r.fd = 1
		if r.op == "<" {
			r.fd = 0
		}
	}
	if r.op == ">&" {
		if p.pos >= len(p.src) || p.src[p.pos] < '1' || p.src[p.pos] > '2' {
			return r, false, p.unexpected()
		}
		r.source = int(p.src[p.pos] - '0')
		p.pos++
		return r, true, nil
	}
	p.skip(false)
	w, err := p.word()
	if err == nil && w == nil {
		err = p.unexpected()
	}
	r.target = w
	return r, true, err
}

// word parses one word; nil when none comes next. An empty quoted word is not
// nil.
func (p *parser) word() (word, error) {
	var w word
	for p.pos < len(p.src) {
		c := p.src[p.pos]
		switch {
		case strings.IndexByte(" \t\n;()&|<>", c) >= 0:
			return w, nil
		case c == '\'':
			end := strings.IndexByte(p.src[p.pos+1:], '\'')
			if end < 0 {
				return nil, errUnfinished
			}
			w = append(w, part{text: p.src[p.pos+1 : p.pos+1+end], quoted: true})
			p.pos += end + 2
		case c == '"':
			p.pos++
			parts, err := p.quoted()
			if err != nil {
				return nil, err
			}
			w = append(w, parts...)
		case c == '\\':
			if p.pos+1 >= len(p.src) {
				return nil, errUnfinished
			}
			if p.src[p.pos+1] != '\n' {
				w = append(w, part{text: p.src[p.pos+1 : p.pos+2], quoted: true})
			}
			p.pos += 2
		case c == '$':
			part, err := p.dollar(false)
			if err != nil {
				return nil, err
			}
			w = append(w, part)
		case c == '`' || c == '*' || c == '?' || c == '[' && p.globs():
			return nil, fmt.Errorf("%q is not supported", c)
		default:
			w = append(w, part{text: p.plain()})
		}
	}
	return w, nil
}

// globs tells a pattern such as [a-z] from the program named [.
func (p *parser) globs() bool {
	return p.pos+1 < len(p.src) && strings.IndexByte(" \t\n", p.src[p.pos+1]) < 0
}

// plain reads at least one byte that means itself.
func (p *parser) plain() string {
	start := p.pos
	p.pos++
	for p.pos < len(p.src) && strings.IndexByte(" \t\n;()&|<>'\"\\$`*?[", p.src[p.pos]) < 0 {
		p.pos++
	}
	return p.src[start:p.pos]
}

// quoted reads the inside of a "…" and its closing quote.
func (p *parser) quoted() (word, error) {
	var w word
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			w = append(w, part{text: text.String(), quoted: true})
			text.Reset()
		}
	}
	for p.pos < len(p.src) {
		c := p.src[p.pos]
		switch {
		case c == '"':
			p.pos++
			flush()
			if w == nil {
				w = word{part{quoted: true}} // "" is an empty word, not none
			}
			return w, nil
		case c == '\\' && p.pos+1 < len(p.src) && strings.IndexByte("$`\"\\\n", p.src[p.pos+1]) >= 0:
			if p.src[p.pos+1] != '\n' {
				text.WriteByte(p.src[p.pos+1])
			}
			p.pos += 2
		case c == '$':
			flush()
			part, err := p.dollar(true)
			if err != nil {
				return nil, err
			}
			w = append(w, part)
		case c == '`':
			return nil, fmt.Errorf("%q is not supported", c)
		default:
			text.WriteByte(c)
			p.pos++
		}
	}
	return nil, errUnfinished
}

// dollar reads what follows a dollar sign.
func (p *parser) dollar(quoted bool) (part, error) {
	p.pos++
	rest := p.src[p.pos:]
	switch {
	case strings.HasPrefix(rest, "(("):
		return part{}, errors.New("arithmetic is not supported")
	case strings.HasPrefix(rest, "("):
		p.pos++
		l, err := p.list("")
		if err != nil {
			return part{}, err
		}
		if p.pos >= len(p.src) {
			return part{}, errUnfinished
		}
		p.pos++
		return part{kind: substitution, sub: l, quoted: quoted}, nil
	case strings.HasPrefix(rest, "{"):
		name, _, ok := strings.Cut(rest[1:], "}")
		if !ok {
			return part{}, errUnfinished
		}
		if !isParameter(name) {
			return part{}, fmt.Errorf("${%s} is not supported", name)
		}
		p.pos += len(name) + 2
		return part{kind: parameter, text: name, quoted: quoted}, nil
	case rest != "" && strings.IndexByte("?$!#@*0123456789", rest[0]) >= 0:
		p.pos++
		return part{kind: parameter, text: rest[:1], quoted: quoted}, nil
	}
	if name := p.name(); name != "" {
		return part{kind: parameter, text: name, quoted: quoted}, nil
	}
	return part{text: "$", quoted: quoted}, nil
}

func isParameter(name string) bool {
	if len(name) == 1 && strings.Contains("?$!#@*0123456789", name) {
		return true
	}
	for i := range len(name) {
		if !isNameByte(name[i], i == 0) {
			return false
		}
	}
	return name != ""
}
