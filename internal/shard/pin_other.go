//go:build !linux

package shard

import "errors"

// pin fails.
func pin(int) error { return errors.ErrUnsupported }
