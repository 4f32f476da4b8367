package worker

const probe = "probe-confined"

func probeConfined() int { return 0 }
