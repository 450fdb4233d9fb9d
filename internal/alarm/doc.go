// Package alarm is a timer for the next thing that is due, by the clock of its owner.
//
// The package refuses to know what is due, and to lock anything.
package alarm
