// Package era tells which resources may have broken with another: those that were opened, or last answered, before.
//
// The package refuses to know what a resource is, and has no clock.
package era
