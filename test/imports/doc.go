// Package imports keeps the layout of the repository: who may import whom, where
// C and unsafe may stand, and that all of it is formatted. It holds tests only.
package imports
