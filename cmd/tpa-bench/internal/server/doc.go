// Package server accepts connections and serves one of the protocols that the
// workloads need: resp, echo, discard and http. It works on any net.Listener.
package server
