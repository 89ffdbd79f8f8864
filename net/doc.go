// Package tpanet adapts TCP endpoints of a user-space stack to net.Conn and
// net.Listener. It stands in the folder net/ and is not the package net of the
// standard library; programs meet it through the values that package accel
// returns.
package tpanet
