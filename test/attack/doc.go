// Package attack floods, starves and confuses a server across a wire, with the
// tools that attackers use and with frames of its own making, and looks whether
// clients that mean well are still served and whether memory stays bounded. It
// holds tests only; docs/testing.md has the figures.
package attack
