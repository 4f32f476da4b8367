package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxFile is the greatest size of a configuration file, in bytes.
const maxFile = 64 << 10

// Load reads the configuration. file is the one that the command line names;
// empty means SANDBOXD_CONFIG or, where it exists, SystemFile. flags are the
// values of the flags that were given, by the path of their setting.
func Load(h Host, file string, flags map[string]string) (Config, error) {
	c := Default(h)
	settings := Settings(&c)
	if err := loadFile(h, file, settings); err != nil {
		return c, err
	}
	for _, s := range settings {
		// The most specific variable counts, so it is set last.
		for _, name := range slices.Backward(s.Env()) {
			if value, ok := h.Getenv(name); ok && value != "" {
				if err := s.set(value); err != nil {
					return c, fmt.Errorf("environment variable %s: %w", name, err)
				}
			}
		}
	}
	for _, s := range settings {
		if value, ok := flags[s.Path]; ok {
			if err := s.set(value); err != nil {
				return c, fmt.Errorf("flag --%s: %w", s.Flag(), err)
			}
		}
	}
	if err := c.finish(h); err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	return c, nil
}

// loadFile applies the configuration file, if there is one.
func loadFile(h Host, file string, settings []Setting) error {
	optional := false
	if file == "" {
		file = h.env("SANDBOXD_CONFIG")
	}
	if file == "" {
		file, optional = SystemFile, true
	}
	raw, err := h.ReadFile(file)
	switch {
	case optional && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && !h.Root):
		return nil
	case err != nil:
		return fmt.Errorf("configuration file %s cannot be read: %w", file, cause(err))
	case len(raw) > maxFile:
		return fmt.Errorf("configuration file %s is larger than %d KiB", file, maxFile>>10)
	}
	if err := applyFile(raw, settings); err != nil {
		return fmt.Errorf("configuration file %s: %w", file, err)
	}
	return nil
}

// cause drops the path that a PathError repeats.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// applyFile sets what a file says.
func applyFile(raw []byte, settings []Setting) error {
	asJSON, err := yaml.YAMLToJSONStrict(raw)
	if err != nil {
		return fmt.Errorf("it is not valid YAML: %s", oneLine(err))
	}
	var tree any
	decoder := json.NewDecoder(strings.NewReader(string(asJSON)))
	decoder.UseNumber()
	if err := decoder.Decode(&tree); err != nil {
		return fmt.Errorf("it is not valid YAML: %s", oneLine(err))
	}
	if tree == nil {
		return nil // an empty file
	}
	root, ok := tree.(map[string]any)
	if !ok {
		return errors.New("it must be a map of settings")
	}
	known := map[string]Setting{}
	for _, s := range settings {
		known[s.Path] = s
	}
	return apply(root, "", known)
}

func apply(tree map[string]any, prefix string, known map[string]Setting) error {
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		path, value := prefix+key, tree[key]
		s, found := known[path]
		below, isMap := value.(map[string]any)
		switch {
		case !found && isMap && hasBelow(known, path+"."):
			if err := apply(below, path+".", known); err != nil {
				return err
			}
		case value == nil && (found || hasBelow(known, path+".")): // "key:" alone
		case !found && hasBelow(known, path+"."):
			return fmt.Errorf("setting %s must be a map", path)
		case !found:
			return fmt.Errorf("there is no setting %s: `sandboxd serve --help` lists them", path)
		default:
			text, err := asText(s, value)
			if err == nil {
				err = s.set(text)
			}
			if err != nil {
				return fmt.Errorf("setting %s: %w", path, err)
			}
		}
	}
	return nil
}

func hasBelow(known map[string]Setting, prefix string) bool {
	for path := range known {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// asText makes the text of a value, as a flag would have it.
func asText(s Setting, value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return strconv.FormatBool(v), nil
	case []any:
		if !s.List {
			return "", errors.New("one value is wanted, not a list")
		}
		parts := make([]string, 0, len(v))
		for _, e := range v {
			text, ok := e.(string)
			if !ok || strings.Contains(text, ",") {
				return "", fmt.Errorf("%v is not a text without commas", e)
			}
			parts = append(parts, text)
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("a text, a number or a boolean is wanted")
}

// oneLine joins the lines of a parser's message.
func oneLine(err error) string {
	text := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	return strings.Join(strings.Fields(strings.TrimPrefix(text, "yaml: ")), " ")
}
