// Package summary says in a few words what a query does: its verbs and what they work on, for the names of spans and the
// attributes of metrics.
//
// It walks once through the tokens of [sqltext.Read]. It follows no grammar to its end: a verb that it does not know says
// nothing, and neither does what stands behind one that names no table.
//
// The package refuses to judge whether a query is valid, to look names up, and to show a literal.
package summary
