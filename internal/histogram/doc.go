// Package histogram counts durations in buckets of fixed bounds, from a microsecond to an hour.
//
// The package refuses to know what is measured, to lock, and to forget: its user keeps two readings and subtracts.
package histogram
