package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// storedPrefix begins every stored value. An object always has a name, so its
// metadata is never empty and a comma may follow what is put behind the prefix.
const storedPrefix = `{"metadata":{`

// encodeStored renders an object in its stored form. It is deterministic:
// equal objects have equal bytes.
func encodeStored(obj map[string]any) ([]byte, error) {
	meta, ok := obj["metadata"].(map[string]any)
	if !ok || len(meta) == 0 {
		return nil, fmt.Errorf("object has no metadata")
	}
	b := make([]byte, 0, 2048)
	b = append(b, `{"metadata":`...)
	b, err := appendMembers(b, meta, keysWithout(meta, "resourceVersion"))
	if err != nil {
		return nil, err
	}
	rest := len(b)
	b, err = appendMembers(b, obj, keysWithout(obj, "metadata"))
	if err != nil {
		return nil, err
	}
	if len(b) == rest+len("{}") {
		return append(b[:rest], '}'), nil
	}
	b[rest] = ','
	return b, nil
}

// decodeStored parses a stored value into an object of its own, with its
// resource version.
func decodeStored(value []byte, revision int64) (*unstructured.Unstructured, error) {
	obj := map[string]any{}
	if err := utiljson.Unmarshal(value, &obj); err != nil {
		return nil, fmt.Errorf("stored object is not valid JSON: %w", err)
	}
	u := &unstructured.Unstructured{Object: obj}
	if revision != 0 {
		u.SetResourceVersion(formatRevision(revision))
	}
	return u, nil
}

// appendServedHead appends what the served form of a stored value begins with,
// up to and including the resource version. Revision 0 is that of a dry run:
// nothing was stored, so there is no version.
func appendServedHead(b []byte, revision int64) []byte {
	b = append(b, storedPrefix...)
	if revision == 0 {
		return b
	}
	b = append(b, `"resourceVersion":"`...)
	b = strconv.AppendInt(b, revision, 10)
	return append(b, `",`...)
}

// servedRest is what follows the head: the untouched rest of the stored value.
func servedRest(value []byte) ([]byte, error) {
	if !bytes.HasPrefix(value, []byte(storedPrefix)) {
		return nil, fmt.Errorf("stored object does not begin with its metadata")
	}
	return value[len(storedPrefix):], nil
}

// served returns the served form of a stored value.
func served(value []byte, revision int64) ([]byte, error) {
	rest, err := servedRest(value)
	if err != nil {
		return nil, err
	}
	b := appendServedHead(make([]byte, 0, len(value)+48), revision)
	return append(b, rest...), nil
}

func formatRevision(revision int64) string { return strconv.FormatInt(revision, 10) }

// keysWithout returns a map's keys in order, leaving out one.
func keysWithout(m map[string]any, skip string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		if k != skip {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	return keys
}

// appendMembers renders the members of a map that have the given keys.
func appendMembers(b []byte, m map[string]any, keys []string) ([]byte, error) {
	b = append(b, '{')
	var err error
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, k)
		b = append(b, ':')
		if b, err = appendValue(b, m[k]); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// appendValue renders a JSON value as the decoder makes them: nil, bool, int64,
// float64, string, map and slice. Anything else is left to encoding/json.
func appendValue(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case string:
		return appendString(b, v), nil
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		return appendMembers(b, v, keys)
	case []any:
		b = append(b, '[')
		var err error
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, e); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(b, raw...), nil
}

// appendString renders a string, quickly when nothing in it needs escaping.
func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			raw, err := json.Marshal(s)
			if err != nil { // strings always marshal
				panic(err)
			}
			return append(b, raw...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
