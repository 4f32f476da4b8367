package v1

// LabelManifests is on every object that the daemon applies from a directory
// (manifests.dir). Its value is the directory's identity.
const LabelManifests = GroupName + "/manifests"

// AnnotationPrune with the value PruneDisabled keeps an object that left the
// directory it was applied from.
const AnnotationPrune = GroupName + "/prune"

// PruneDisabled is the value of AnnotationPrune.
const PruneDisabled = "Disabled"
