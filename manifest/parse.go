package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	yamlv3 "go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"sandboxd.dev/sandboxd/brief"
)

const (
	// maxNodes bounds how many values a document may have once its aliases are
	// expanded.
	maxNodes = 100_000
	// maxDepth bounds how deep a document may nest.
	maxDepth = 100
)

// document is one document of a file.
type document struct {
	text []byte
	line int // at which it begins, from 0
}

// Parse reads the objects in a file's content. name is what messages call it.
// Documents without content are passed over.
func Parse(name string, raw []byte) ([]Object, error) {
	if !utf8.Valid(raw) || bytes.ContainsRune(raw, 0) {
		return nil, fmt.Errorf("%s: it is not a text file", name)
	}
	docs := split(raw)
	var objects []Object
	for i, d := range docs {
		where := name
		if len(docs) > 1 {
			where = fmt.Sprintf("%s: document %d", name, i+1)
		}
		tree, err := d.decode()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		if tree == nil {
			continue
		}
		found, err := objectsOf(where, tree)
		if err != nil {
			return nil, err
		}
		if objects = append(objects, found...); len(objects) > MaxObjects {
			return nil, fmt.Errorf("%s: it holds more than %d objects: split it into several files", name, MaxObjects)
		}
	}
	return objects, nil
}

// split separates the documents of a file at the lines that begin with "---".
func split(raw []byte) []document {
	raw = bytes.TrimPrefix(raw, []byte("\uFEFF"))
	var docs []document
	start, startLine, line := 0, 0, 0
	add := func(end int) {
		text := raw[start:end]
		if !blank(text) {
			docs = append(docs, document{text, startLine})
		}
		start, startLine = end, line
	}
	for at := 0; at < len(raw); line++ {
		end := len(raw)
		if i := bytes.IndexByte(raw[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		if separates(raw[at:end]) && at > start {
			add(at)
		}
		at = end
	}
	add(len(raw))
	return docs
}

// separates tells whether a line begins a new document.
func separates(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.ContainsRune(" \t\r\n", rune(rest[0])))
}

// blank tells whether a document has nothing but comments and separators.
func blank(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

// decode reads a document into a tree; nil when it holds nothing.
func (d document) decode() (map[string]any, error) {
	if len(d.text) > MaxDocument {
		return nil, fmt.Errorf("it is larger than %d MiB", MaxDocument>>20)
	}
	if err := checkShape(d.text); err != nil {
		return nil, d.located(err)
	}
	asJSON, err := yaml.YAMLToJSONStrict(d.text)
	if err != nil {
		return nil, d.located(err)
	}
	if bytes.Equal(asJSON, []byte("null")) {
		return nil, nil
	}
	if len(asJSON) > MaxDocument {
		return nil, fmt.Errorf("it expands to more than %d MiB", MaxDocument>>20)
	}
	var tree map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(asJSON, &tree); err != nil {
		return nil, errors.New("it is not a manifest: a map with apiVersion, kind and metadata is wanted")
	}
	return tree, nil
}

// checkShape parses a document without expanding its aliases, and refuses one
// that would grow too large or nests too deep.
func checkShape(text []byte) error {
	decoder := yamlv3.NewDecoder(bytes.NewReader(text))
	var root yamlv3.Node
	if err := decoder.Decode(&root); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	s := shape{sizes: map[*yamlv3.Node]size{}}
	total, err := s.measure(&root, 0)
	switch {
	case err != nil:
		return err
	case total.nodes > maxNodes:
		return fmt.Errorf("its aliases expand to more than %d values", maxNodes)
	case total.bytes > MaxDocument:
		return fmt.Errorf("its aliases expand to more than %d MiB", MaxDocument>>20)
	}
	if err := decoder.Decode(&yamlv3.Node{}); !errors.Is(err, io.EOF) {
		return errors.New(`more follows behind the end of the document: separate documents by a line "---"`)
	}
	return nil
}

// size of an expanded value. It stops counting where nothing is allowed any more.
type size struct{ nodes, bytes int }

func (a size) plus(b size) size {
	const enough = 1 << 40
	return size{min(a.nodes+b.nodes, enough), min(a.bytes+b.bytes, enough)}
}

// shape measures values, each once, however often it is referred to.
type shape struct {
	sizes map[*yamlv3.Node]size
	// open are the anchored values around the one that is measured.
	open []*yamlv3.Node
}

func (s *shape) measure(n *yamlv3.Node, depth int) (size, error) {
	if depth > maxDepth {
		return size{}, fmt.Errorf("it nests deeper than %d levels", maxDepth)
	}
	if known, ok := s.sizes[n]; ok {
		return known, nil
	}
	for _, around := range s.open {
		if around == n {
			return size{}, errors.New("an anchor's value contains itself")
		}
	}
	s.open = append(s.open, n)
	defer func() { s.open = s.open[:len(s.open)-1] }()
	total := size{1, len(n.Value)}
	below := n.Content
	if n.Kind == yamlv3.AliasNode {
		below = []*yamlv3.Node{n.Alias}
	}
	for _, child := range below {
		part, err := s.measure(child, depth+1)
		if err != nil {
			return size{}, err
		}
		total = total.plus(part)
	}
	s.sizes[n] = total
	return total, nil
}

// lineNumber finds the places of lines in a parser's message.
var lineNumber = regexp.MustCompile(`\bline (\d+)`)

// located makes one sentence of a parser's message, with the lines of the file.
func (d document) located(err error) error {
	text := err.Error()
	for _, prefix := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors:"} {
		text = strings.TrimPrefix(text, prefix)
	}
	text = strings.Join(strings.Fields(text), " ")
	text = lineNumber.ReplaceAllStringFunc(text, func(m string) string {
		n, err := strconv.Atoi(strings.TrimPrefix(m, "line "))
		if err != nil {
			return m
		}
		return "line " + strconv.Itoa(n+d.line)
	})
	if (strings.Contains(text, "cannot start any token") || strings.Contains(text, "tab character")) && bytes.Contains(d.text, []byte("\t")) {
		text += ": YAML is indented with spaces, not with tabs"
	}
	const most = 300
	return errors.New(brief.Text(text, most))
}

// objectsOf makes the objects of a tree: itself, or the items of a List.
func objectsOf(where string, tree map[string]any) ([]Object, error) {
	u := &unstructured.Unstructured{Object: tree}
	if err := checkHead(u); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	if u.GetKind() != "List" || u.GetAPIVersion() != "v1" {
		if u.GetName() == "" {
			return nil, fmt.Errorf("%s: %s has no metadata.name", where, u.GetKind())
		}
		return []Object{{u, where}}, nil
	}
	items, _ := tree["items"].([]any)
	var objects []Object
	for i, item := range items {
		where := fmt.Sprintf("%s: item %d", where, i+1)
		below, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: it is not a manifest: a map with apiVersion, kind and metadata is wanted", where)
		}
		if kind, _ := below["kind"].(string); kind == "List" {
			return nil, fmt.Errorf("%s: a list inside a list is not read", where)
		}
		found, err := objectsOf(where, below)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

// checkHead checks what every object has.
func checkHead(u *unstructured.Unstructured) error {
	for _, name := range []string{"apiVersion", "kind"} {
		if text, ok := u.Object[name].(string); !ok || text == "" {
			return fmt.Errorf("it has no %s: every manifest begins with apiVersion and kind", name)
		}
	}
	if metadata, ok := u.Object["metadata"]; ok {
		m, ok := metadata.(map[string]any)
		if !ok {
			return errors.New("its metadata is not a map")
		}
		for _, name := range []string{"name", "namespace"} {
			if v, ok := m[name]; ok {
				if _, ok := v.(string); !ok {
					return fmt.Errorf("its metadata.%s is not a text: put it in quotes", name)
				}
			}
		}
	}
	return nil
}
