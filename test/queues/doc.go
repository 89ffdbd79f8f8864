// Package queues tests runtimes with many queues on network cards in software:
// where flows arrive, how shards hand over what arrives elsewhere, and how the
// work is shared. It runs in virtual time.
package queues
