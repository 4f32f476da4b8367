// Package hostnet looks at the host's links and addresses, and chooses addresses
// that are free.
//
//	host ──▶ UsedSubnets ──▶ ChooseSubnet ──▶ Gateway, ChooseAddress
//
// On Linux it asks the kernel for what is in the process's network namespace:
// links, addresses, routes and neighbours. On macOS it knows the addresses of
// interfaces only.
package hostnet
