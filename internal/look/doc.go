// Package look shows a pool: what every slot does at one moment, who waits, and what happened lately.
//
// It counts nothing itself. What a picture shows is read from the pool, the records of the leases and the observer. Only
// events and reports of leaks, which nobody else keeps, are kept here, a fixed number of each.
//
// The package refuses to change anything, to know who looks, and to show a literal: queries are sanitised here.
package look
