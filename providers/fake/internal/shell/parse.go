package shell

import (
	"errors"
	"fmt"
	"strings"
)

// maxDepth bounds the nesting of a script, so that none can exhaust the stack.
const maxDepth = 64

type (
	list []item
	item struct {
		andOr      andOr
		background bool
	}
	andOr struct {
		first pipeline
		rest  []conjunct
	}
	conjunct struct {
		and bool
		pipeline
	}
	pipeline struct {
		negate   bool
		commands []command
	}
	// command is one of its kinds, with redirections.
	command struct {
		redirects []redirect
		assigns   []assign
		words     []word // a simple command
		group     list   // { … } or, when subshell is set, ( … )
		subshell  bool
		cond      *conditional
		loop      *loop
	}
	conditional struct {
		branches  []branch
		otherwise list
	}
	branch struct{ test, then list }
	loop   struct {
		variable string // of a for loop
		values   []word
		test     list // of a while or until loop
		until    bool
		body     list
	}
	assign struct {
		name  string
		value word
	}
	redirect struct {
		fd     int
		op     string // <, >, >>, or >& to copy another descriptor
		target word
		source int
	}
	word []part
	part struct {
		kind   partKind
		text   string
		quoted bool
		sub    list
	}
	partKind int
)

const (
	literal partKind = iota
	parameter
	substitution
)

var errUnfinished = errors.New("unexpected end of script")

type parser struct {
	src   string
	pos   int
	depth int
}

func parse(src string) (list, error) {
	p := &parser{src: src}
	l, err := p.list("")
	if err != nil {
		return nil, err
	}
	if p.pos < len(p.src) {
		return nil, p.unexpected()
	}
	return l, nil
}

func (p *parser) unexpected() error {
	if p.pos >= len(p.src) {
		return errUnfinished
	}
	return fmt.Errorf("unexpected %q", p.src[p.pos])
}

func (p *parser) enter() error {
	p.depth++
	if p.depth > maxDepth {
		return fmt.Errorf("nested more than %d deep", maxDepth)
	}
	return nil
}

// list parses up to the end of the script, a closing parenthesis, or one of the
// reserved words in ends (separated by spaces), which it leaves unread.
func (p *parser) list(ends string) (list, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var l list
	for {
		p.skip(true)
		if p.pos >= len(p.src) || p.src[p.pos] == ')' || p.atReserved(ends) {
			return l, nil
		}
		a, err := p.andOr()
		if err != nil {
			return nil, err
		}
		it := item{andOr: a}
		p.skip(false)
		switch {
		case p.pos >= len(p.src) || p.src[p.pos] == ')':
		case p.src[p.pos] == '&':
			it.background = true
			p.pos++
		case p.src[p.pos] == ';' || p.src[p.pos] == '\n':
			p.pos++
		default:
			return nil, p.unexpected()
		}
		l = append(l, it)
	}
}

func (p *parser) andOr() (andOr, error) {
	first, err := p.pipeline()
	if err != nil {
		return andOr{}, err
	}
	a := andOr{first: first}
	for {
		p.skip(false)
		and := strings.HasPrefix(p.src[p.pos:], "&&")
		if !and && !strings.HasPrefix(p.src[p.pos:], "||") {
			return a, nil
		}
		p.pos += 2
		p.skip(true)
		next, err := p.pipeline()
		if err != nil {
			return andOr{}, err
		}
		a.rest = append(a.rest, conjunct{and, next})
	}
}

func (p *parser) pipeline() (pipeline, error) {
	var pl pipeline
	if p.reserved("!") {
		pl.negate = true
		p.skip(false)
	}
	for {
		c, err := p.command()
		if err != nil {
			return pipeline{}, err
		}
		pl.commands = append(pl.commands, c)
		p.skip(false)
		if !strings.HasPrefix(p.src[p.pos:], "|") || strings.HasPrefix(p.src[p.pos:], "||") {
			return pl, nil
		}
		p.pos++
		p.skip(true)
	}
}

func (p *parser) command() (c command, err error) {
	switch {
	case p.pos < len(p.src) && p.src[p.pos] == '(':
		p.pos++
		c.subshell = true
		if c.group, err = p.list(""); err != nil {
			return c, err
		}
		if p.pos >= len(p.src) {
			return c, errUnfinished
		}
		p.pos++
	case p.reserved("{"):
		c.group, err = p.block("}")
	case p.reserved("if"):
		c.cond, err = p.conditional()
	case p.reserved("while"):
		c.loop, err = p.while(false)
	case p.reserved("until"):
		c.loop, err = p.while(true)
	case p.reserved("for"):
		c.loop, err = p.forLoop()
	default:
		return p.simple()
	}
	if err != nil {
		return c, err
	}
	for {
		p.skip(false)
		r, ok, err := p.redirect()
		if err != nil || !ok {
			return c, err
		}
		c.redirects = append(c.redirects, r)
	}
}

// block parses a list and the reserved word that ends it.
func (p *parser) block(end string) (list, error) {
	l, err := p.list(end)
	if err != nil {
		return nil, err
	}
	if !p.reserved(end) {
		return nil, p.unexpected()
	}
	if len(l) == 0 {
		return nil, fmt.Errorf("nothing before %q", end)
	}
	return l, nil
}

func (p *parser) conditional() (*conditional, error) {
	c := &conditional{}
	for {
		test, err := p.block("then")
		if err != nil {
			return nil, err
		}
		then, err := p.list("elif else fi")
		if err != nil {
			return nil, err
		}
		c.branches = append(c.branches, branch{test, then})
		if p.reserved("elif") {
			continue
		}
		if p.reserved("else") {
			c.otherwise, err = p.block("fi")
			return c, err
		}
		if !p.reserved("fi") {
			return nil, p.unexpected()
		}
		return c, nil
	}
}

func (p *parser) while(until bool) (*loop, error) {
	test, err := p.block("do")
	if err != nil {
		return nil, err
	}
	body, err := p.block("done")
	return &loop{test: test, until: until, body: body}, err
}

func (p *parser) forLoop() (*loop, error) {
	l := &loop{}
	p.skip(false)
	l.variable = p.name()
	if l.variable == "" {
		return nil, p.unexpected()
	}
	p.skip(true)
	if p.reserved("in") {
		for {
			p.skip(false)
			w, err := p.word()
			if err != nil {
				return nil, err
			}
			if w == nil {
				break
			}
			l.values = append(l.values, w)
		}
	} else {
		l.values = []word{{part{kind: parameter, text: "@", quoted: true}}}
	}
	if p.pos < len(p.src) && p.src[p.pos] == ';' {
		p.pos++
	}
	p.skip(true)
	if !p.reserved("do") {
		return nil, p.unexpected()
	}
	var err error
	l.body, err = p.block("done")
	return l, err
}

// simple parses assignments, words and redirections, of which there must be
// at least one.
func (p *parser) simple() (command, error) {
	var c command
	if p.atReserved("then elif else fi do done }") {
		return c, p.unexpected()
	}
	for {
		p.skip(false)
		r, ok, err := p.redirect()
		if err != nil {
			return c, err
		}
		if ok {
			c.redirects = append(c.redirects, r)
			continue
		}
		if len(c.words) == 0 {
			if a, ok, err := p.assign(); err != nil {
				return c, err
			} else if ok {
				c.assigns = append(c.assigns, a)
				continue
			}
		}
		w, err := p.word()
		if err != nil {
			return c, err
		}
		if w == nil {
			break
		}
		c.words = append(c.words, w)
	}
	if len(c.words)+len(c.assigns)+len(c.redirects) == 0 {
		return c, p.unexpected()
	}
	return c, nil
}
