package apiserver_test

import (
	"encoding/base64"
	"fmt"
	"testing"
)

const configMaps = "/api/v1/namespaces/default/configmaps"

func TestConfigMaps(t *testing.T) {
	a := newAPI(t)
	configMap := func(name, more string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q}%s}`, name, more)
	}
	got := a.do("POST", configMaps, configMap("c", `,"data":{"a":"b"},"binaryData":{"c":"Yg=="}`)).want(201)
	if got.field("data", "a") != "b" || got.field("binaryData", "c") != "Yg==" {
		t.Errorf("the ConfigMap is %s", got.body)
	}
	if cells := a.do("GET", configMaps, nil, "Accept", asTable).table().Rows[0].Cells; cells[1] != float64(2) {
		t.Errorf("the cells are %v", cells)
	}
	large := base64.StdEncoding.EncodeToString(make([]byte, 1<<20+1))
	for _, c := range []struct{ body, message string }{
		{configMap("x", `,"data":{"a b":"c"}`), "data[a b]: Invalid value"},
		{configMap("x", `,"binaryData":{"a":"not base64!"}`), "binaryData[a]: Invalid value"},
		{configMap("x", `,"data":{"a":"b"},"binaryData":{"a":"Yg=="}`), "duplicate of key present in binaryData"},
		{configMap("x", `,"binaryData":{"a":"`+large+`"}`), "Too long"},
	} {
		a.do("POST", configMaps, c.body).refused(422, "Invalid", c.message)
	}
	a.patch(strategicPatch, configMaps+"/c", `{"data":{"d":"e"},"immutable":true}`).want(200)
	a.patch(mergePatch, configMaps+"/c", `{"data":{"a":"z"}}`).refused(422, "Invalid", "data: Forbidden", "immutable")
	a.patch(mergePatch, configMaps+"/c", `{"immutable":false}`).refused(422, "Invalid", "immutable: Forbidden")
	a.patch(mergePatch, configMaps+"/c", `{"metadata":{"labels":{"a":"b"}}}`).want(200)
}
