// Package assembly puts a pool together from its parts: the opener of sessions, the pool, the statement cache, the
// observer, the janitor, and the handles above them. It passes to each what it has to know of another, and logs dials that
// fail and connecting that works again.
//
// The package refuses to know how a part does its work, and the names and texts of the public API: the error of a wait
// and the report of a leak are made by functions of its Config.
package assembly
