//go:build race

package tpanet_test

const raceEnabled = true
