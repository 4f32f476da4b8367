package apiserver

import (
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestJudgeOwners(t *testing.T) {
	for _, test := range []struct {
		name   string
		owners []ownerState
		want   verdict
	}{
		{"no owner", nil, verdict{}},
		{"alive", []ownerState{ownerAlive}, verdict{}},
		{"absent", []ownerState{ownerAbsent}, verdict{remove: true}},
		{"all absent", []ownerState{ownerAbsent, ownerAbsent}, verdict{remove: true}},
		{"waiting", []ownerState{ownerWaiting}, verdict{remove: true, foreground: true}},
		{"waiting and absent", []ownerState{ownerWaiting, ownerAbsent}, verdict{remove: true, foreground: true}},
		{"one is left", []ownerState{ownerAbsent, ownerAlive, ownerWaiting}, verdict{drop: []types.UID{"0", "2"}}},
		{"unknown", []ownerState{ownerUnknown}, verdict{}},
		{"unknown and absent", []ownerState{ownerAbsent, ownerUnknown}, verdict{}},
		{"unknown and alive", []ownerState{ownerUnknown, ownerAlive, ownerAbsent}, verdict{}},
	} {
		states := map[types.UID]ownerState{}
		var refs []metav1.OwnerReference
		for i, state := range test.owners {
			uid := types.UID(rune('0' + i))
			states[uid] = state
			refs = append(refs, metav1.OwnerReference{UID: uid})
		}
		got := judgeOwners(refs, func(ref metav1.OwnerReference) ownerState { return states[ref.UID] })
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v where %+v was expected", test.name, got, test.want)
		}
	}
}
