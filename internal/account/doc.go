// Package account is what a pool says of itself: its counts, its state at one moment, and why a wait ended in vain.
//
// The package refuses to know how any of it comes about.
package account
