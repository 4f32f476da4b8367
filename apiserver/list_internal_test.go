package apiserver

import "testing"

func TestCutOwners(t *testing.T) {
	for value, want := range map[string]string{
		`{"metadata":{"labels":{"a":"b"},"managedFields":[{"f:a":{"]":"\"]"}},[]],"name":"x"},"spec":{}}`:                            `{"metadata":{"labels":{"a":"b"},"name":"x"},"spec":{}}`,
		`{"metadata":{"managedFields":[],"name":"x"}}`:                                                                               `{"metadata":{"name":"x"}}`,
		`{"metadata":{"annotations":{"managedFields":"[","b":"\"managedFields\":["},"name":"x"},"spec":{"managedFields":[1],"z":1}}`: "",
		`{"metadata":{"generateName":"managedFields","name":"x"}}`:                                                                   "",
		`{"metadata":{"name":"x"},"managedFields":[1],"z":1}`:                                                                        "",
		`{"metadata":{"name":"x","managedFields":[1]}}`:                                                                              "",
		`{"metadata":{"managedFields":[`:                                                                                             "",
		`{"metadata":{"a`:                                                                                                            "",
		`{"metadata":{`:                                                                                                              "",
	} {
		if want == "" {
			want = value // nothing is taken out
		}
		if got := string(cutOwners([]byte(value))); got != want {
			t.Errorf("%s\nwithout owners is\n%s", value, got)
		}
	}
}
